"""What the training stages share: augmentations from settings, Lightning from settings, the checkpoint to start from."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torchmetrics import Metric

from adaptf.audio.freq_mixstyle import FreqMixStyle
from adaptf.audio.impulse_response import DeviceImpulseResponse, ResponseBank, simulated_bank
from adaptf.audio.mixup import Mixup
from adaptf.data.clip_set import ClipSet
from adaptf.data.responses import load_responses
from adaptf.errors import UserError
from adaptf.mlproject.config import (
    AugmentConfig,
    BeatsOptimConfig,
    MelConfig,
    ModelConfig,
    OptimConfig,
    TrainerConfig,
)
from adaptf.models.classifier import TFSEPNET, Classifier, ModelDescription
from adaptf.tracking.runs import Result, StageRun
from adaptf.training.augmentation import Augmentation, MixedTeachers, freq_mixstyle, impulse_responses, soft_mixup
from adaptf.training.fit import Fitted, fit
from adaptf.training.losses import cross_entropy, multi_label_loss
from adaptf.training.metrics import MacroAccuracy, MeanAveragePrecision
from adaptf.training.optim import ConfigureOptimizer, adam_with_warm_restarts, adamw_with_linear_decay
from adaptf.training.task import ClassifierTask, Loss

CHECKPOINTS = "checkpoints"
BEST = f"{CHECKPOINTS}/best.ckpt"


@dataclass(frozen=True)
class Objective:
    """What is minimised, and the score that chooses the checkpoint."""

    loss: Loss
    metric: Callable[[int], Metric]
    """From the number of classes."""
    metric_name: str


SCENES = Objective(lambda logits, batch: {"loss": cross_entropy(logits, batch.targets)}, MacroAccuracy, "accuracy")
LABELS = Objective(
    lambda logits, batch: {"loss": multi_label_loss(logits, batch.targets)},
    MeanAveragePrecision,
    "mean_average_precision",
)


@dataclass(frozen=True)
class Augmentations:
    """Augmentations in their order, and the generators whose place belongs into a checkpoint."""

    waveform: Sequence[Augmentation]
    feature: Sequence[Augmentation]
    generators: dict[str, np.random.Generator]


def build_augmentations(
    config: AugmentConfig, *, devices: Sequence[str], sample_rate: int, seed: int, teachers: MixedTeachers = "logits"
) -> Augmentations:
    """Each augmentation has a generator of its own, so that switching one off changes no other's draws."""
    names = ("impulse_response", "freq_mixstyle", "mixup")
    generators = {name: np.random.default_rng([seed, *process_place(), place]) for place, name in enumerate(names)}
    waveform: list[Augmentation] = []
    if config.dir_p > 0:
        transform = DeviceImpulseResponse(
            response_bank(config.dir_folder, sample_rate), p=config.dir_p, generator=generators["impulse_response"]
        )
        rows = [row for row, device in enumerate(devices) if device in config.dir_devices]
        waveform.append(impulse_responses(transform, devices=rows if config.dir_devices else None))
    feature = [
        freq_mixstyle(FreqMixStyle(p=config.mixstyle_p, alpha=config.mixstyle_alpha, generator=generators["freq_mixstyle"])),
        soft_mixup(Mixup(alpha=config.mixup_alpha, generator=generators["mixup"]), teachers=teachers),
    ]
    return Augmentations(waveform, feature, generators)


def process_place() -> tuple[int, int]:
    """Machine and process in a distributed training, known before the processes have met."""
    node = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    return int(node), int(os.environ.get("LOCAL_RANK", "0"))


def response_bank(folder: str, sample_rate: int) -> ResponseBank:
    """Measured responses from a folder, or simulated microphones where there is none."""
    if folder == "none":
        bank = simulated_bank(sample_rate=sample_rate)
        print(
            f"No folder of impulse responses is given (dir_folder): {len(bank)} simulated microphones are used",
            flush=True,
        )
        return bank
    if not Path(folder).is_dir():
        raise UserError(f"augment.dir_folder is '{folder}', which is no folder: give one of impulse responses, or 'none'")
    return load_responses(Path(folder), sample_rate=sample_rate)


def train_classifier(
    classifier: Classifier,
    run: StageRun,
    *,
    train: ClipSet,
    validation: ClipSet,
    devices: Sequence[str],
    objective: Objective,
    augment: AugmentConfig,
    optim: OptimConfig | BeatsOptimConfig,
    trainer: TrainerConfig,
    seed: int,
    loss: Loss | None = None,
    teachers: MixedTeachers = "logits",
) -> Fitted:
    """Lightning's training of a classifier in the run's work folder; `loss` where it is another one than the objective's."""
    sample_rate = train.waveforms.format.sample_rate
    augmentations = build_augmentations(augment, devices=devices, sample_rate=sample_rate, seed=seed, teachers=teachers)
    task = ClassifierTask(
        classifier,
        loss=loss or objective.loss,
        validation_loss=objective.loss,
        metric=objective.metric(len(classifier.description.classes)),
        metric_name=objective.metric_name,
        optimizer=optimizer_of(optim),
        waveform_augmentations=augmentations.waveform,
        feature_augmentations=augmentations.feature,
        generators=augmentations.generators,
    )
    return fit(
        task,
        train=train,
        validation=validation,
        folder=run.folder / CHECKPOINTS,
        max_epochs=optim.max_epochs,
        batch_size=optim.batch_size,
        seed=seed,
        name=run.name,
        loggers=run.loggers(tensorboard=trainer.tensorboard),
        workers=trainer.workers,
        pin_memory=trainer.pin_memory,
        keep_on_device=trainer.keep_on_device,
        progress_bar=trainer.progress_bar,
        validate_every_epochs=trainer.validate_every_epochs,
        trainer_options={
            "accelerator": trainer.accelerator,
            "devices": int(trainer.devices) if trainer.devices.isdigit() else trainer.devices,
            "strategy": trainer.strategy,
            "num_nodes": trainer.num_nodes,
            "precision": trainer.precision,
        },
    )


def optimizer_of(optim: OptimConfig | BeatsOptimConfig) -> ConfigureOptimizer:
    """The optimizer and schedule of these settings."""
    if isinstance(optim, BeatsOptimConfig):
        return adamw_with_linear_decay(
            lr=optim.lr,
            weight_decay=optim.weight_decay,
            betas=optim.betas,
            warmup_epochs=optim.warmup_epochs,
            max_epochs=optim.max_epochs,
            final_share=optim.final_share,
        )
    return adam_with_warm_restarts(lr=optim.lr, restart_epochs=optim.restart_epochs, restart_factor=optim.restart_factor)


def fitted_result(run: StageRun, fitted: Fitted, objective: Objective, *, note: str) -> Result:
    """Both checkpoints, the best score, and TensorBoard's events where there are any."""
    files = {BEST: fitted.best, f"{CHECKPOINTS}/last.ckpt": fitted.last}
    events = run.folder / "tensorboard"
    if events.is_dir():
        files["tensorboard"] = events
    score = f"best validation {objective.metric_name} {fitted.best_score:.3f} in {fitted.epochs} epochs"
    return Result(
        metrics={f"best/{objective.metric_name}": fitted.best_score},
        files=files,
        note=f"{note}\n\n{score}",
        summary=f"{run.name}: {score}",
    )


def checkpoint_of(run: StageRun, value: str) -> Path:
    """The best checkpoint of a run, or a checkpoint file of the user's (also of the public reference trainer)."""
    return Path(value) if Path(value).is_file() else run.download(value, BEST)


def tfsepnet_description(
    classes: Sequence[str], mel: MelConfig = MelConfig(), model: ModelConfig = ModelConfig()
) -> ModelDescription:
    """TF-SepNet for these classes, of the report's size where nothing else is said."""
    return ModelDescription(kind=TFSEPNET, classes=tuple(classes), features=asdict(mel), network=asdict(model))
