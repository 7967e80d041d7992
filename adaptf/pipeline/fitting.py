"""What the training stages share: augmentations from settings, Lightning from settings, the checkpoint to start from."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from adaptf.audio.freq_mixstyle import FreqMixStyle
from adaptf.audio.impulse_response import DeviceImpulseResponse, ResponseBank, simulated_bank
from adaptf.audio.mixup import Mixup
from adaptf.audio.spec_augment import SpecAugment
from adaptf.audio.time_roll import TimeRoll
from adaptf.data.clip_set import ClipSet
from adaptf.data.clips import UNKNOWN, VALIDATION
from adaptf.data.decode import AUDIO_SUFFIXES
from adaptf.data.folders import files_below
from adaptf.data.hashes import FileState, state_of
from adaptf.data.log_mels import LogMelTables
from adaptf.data.responses import ResponseLevel, load_responses
from adaptf.data.shared_objects import SharedObjects
from adaptf.errors import UserError, in_section
from adaptf.evaluation.scores import Score, absent_scenes, say_absent
from adaptf.models.checkpoint import load_classifier
from adaptf.models.classifier import TFSEPNET, Classifier, ModelDescription
from adaptf.models.public_checkpoint import CLASSES
from adaptf.pipeline.artifacts import BEST, CHECKPOINTS, SCENES_KIND
from adaptf.pipeline.config import (
    AugmentConfig,
    BeatsOptimConfig,
    MelConfig,
    ModelConfig,
    OptimConfig,
    TrainerConfig,
)
from adaptf.pipeline.dataset import PreparedData
from adaptf.pipeline.schedule import averaging_of, unended_cycle
from adaptf.tracking import runs
from adaptf.tracking.runs import NONE, Result, StageRun
from adaptf.training.augmentation import (
    Augmentation,
    MixedTeachers,
    freq_mixstyle,
    impulse_responses,
    soft_mixup,
    spec_augment,
    time_roll,
)
from adaptf.training.device_probability import probability_per_device
from adaptf.training.fit import Fitted, fit
from adaptf.training.losses import cross_entropy, multi_label_loss
from adaptf.training.metrics import MacroAccuracy, MeanAveragePrecision, MeanDPrime
from adaptf.training.optim import ConfigureOptimizer, adam_with_warm_restarts, adamw_with_linear_decay
from adaptf.training.task import ClassifierTask, Loss, Measure, with_targets


@dataclass(frozen=True)
class Objective:
    """What is minimised, and what is measured on validation clips."""

    loss: Loss
    measures: Callable[[int, int, Score], Mapping[str, Measure]]
    """From the numbers of classes and devices; the first one's score chooses the checkpoint."""


def scene_measures(classes: int, devices: int, score: Score) -> dict[str, Measure]:
    """The accuracy that chooses, as `accuracy`, and the other one by its name."""
    plain = with_targets(MacroAccuracy(classes))
    mean = Measure(MacroAccuracy(classes, devices), lambda logits, batch: (logits, batch.targets, batch.device))
    if score == "plain":
        return {"accuracy": plain, "accuracy_mean_over_devices": mean}
    return {"accuracy": mean, "accuracy_over_all_clips": plain}


def label_measures(classes: int, devices: int, score: Score) -> dict[str, Measure]:
    """AudioSet's mean average precision and d-prime, of clips without devices."""
    return {
        "mean_average_precision": with_targets(MeanAveragePrecision(classes)),
        "d_prime": with_targets(MeanDPrime(classes)),
    }


SCENES = Objective(lambda logits, batch: {"loss": cross_entropy(logits, batch.targets)}, scene_measures)
LABELS = Objective(lambda logits, batch: {"loss": multi_label_loss(logits, batch.targets)}, label_measures)


@dataclass(frozen=True)
class Augmentations:
    """Augmentations in their order, and the generators whose place belongs into a checkpoint."""

    waveform: Sequence[Augmentation]
    feature: Sequence[Augmentation]
    generators: dict[str, np.random.Generator]


def build_augmentations(
    config: AugmentConfig,
    *,
    p_of_device: Sequence[float],
    sample_rate: int,
    seed: int,
    teachers: MixedTeachers = "logits",
    shared: SharedObjects | None = None,
) -> Augmentations:
    """Each augmentation has a generator of its own, so that switching one off changes no other's draws.

    `p_of_device`: of an impulse response, for each of the device names that batches point to. `shared` keeps the bank of
    responses.
    """
    names = ("impulse_response", "freq_mixstyle", "mixup", "spec_augment", "time_roll")
    generators = {name: np.random.default_rng([seed, *process_place(), place]) for place, name in enumerate(names)}
    waveform: list[Augmentation] = []
    feature: list[Augmentation] = []
    if config.time_roll_seconds > 0:
        roll = TimeRoll(max_seconds=config.time_roll_seconds, sample_rate=sample_rate, generator=generators["time_roll"])
        waveform.append(time_roll(roll))
    if max(p_of_device, default=0.0) > 0:
        check_folder(config)
        bank = (shared or SharedObjects()).once(
            ("responses", *folder_state(config.dir_folder), sample_rate, config.dir_level),
            lambda: response_bank(config.dir_folder, sample_rate, config.dir_level),
        )
        respond = DeviceImpulseResponse(bank, p=max(p_of_device), generator=generators["impulse_response"])
        waveform.append(impulse_responses(respond, p_of_device=p_of_device))
    if config.mixstyle_p > 0:
        style = FreqMixStyle(p=config.mixstyle_p, alpha=config.mixstyle_alpha, generator=generators["freq_mixstyle"])
        feature.append(freq_mixstyle(style))
    if config.spec_mask_share > 0:
        feature.append(spec_augment(SpecAugment(mask_share=config.spec_mask_share, generator=generators["spec_augment"])))
    if config.mixup_alpha > 0:
        feature.append(soft_mixup(Mixup(alpha=config.mixup_alpha, generator=generators["mixup"]), teachers=teachers))
    return Augmentations(waveform, feature, generators)


def dir_p_by_device(augment: AugmentConfig, training_devices: Sequence[str]) -> dict[str, float]:
    """Of an impulse response, by device of the data's training clips. Raises ValueError where another one is named."""
    only = chosen_devices(augment, training_devices)
    found = probability_per_device(training_devices, p=augment.dir_p, only=only, p_of=augment.dir_p_of)
    return dict(zip(training_devices, found, strict=True))


def dir_p_of_clips(augment: AugmentConfig, data: PreparedData, train: ClipSet) -> list[float]:
    """Of an impulse response, for each device name that batches point to; 0 for those that no clip of `train` is of."""
    dir_p, occurring = dir_p_by_device(augment, data.training_devices), set(train.devices.tolist())
    names = data.devices or (UNKNOWN,)  # what AudioSet's clips are of
    return [dir_p.get(device, 0.0) if place in occurring else 0.0 for place, device in enumerate(names)]


def chosen_devices(augment: AugmentConfig, training_devices: Sequence[str]) -> tuple[str, ...]:
    """`dir_devices`; empty, which means all, where they are the default's, which are TAU's, and the data has none of them."""
    default = AugmentConfig.dir_devices
    no_such = augment.dir_devices == default and not set(default) & set(training_devices)
    return () if no_such else augment.dir_devices


def say_chosen_devices(augment: AugmentConfig, training_devices: Sequence[str]) -> None:
    """Where the default means other devices than it names."""
    if augment.dir_p > 0 and chosen_devices(augment, training_devices) != augment.dir_devices:
        print(
            f"No training clips of the data are of {', '.join(augment.dir_devices)}, the default of dir_devices: those of all "
            f"devices ({', '.join(training_devices)}) get impulse responses",
            flush=True,
        )


def say_absent_scenes(data: PreparedData) -> None:
    """Which scenes of which device the accuracy on validation clips leaves out; nothing of clips without devices."""
    if data.kind != SCENES_KIND:
        return
    if said := say_absent(absent_scenes(data.table[data.table["split"] == VALIDATION], data.classes)):
        print(f"Validation clips: {said}", flush=True)


def process_place() -> tuple[int, int]:
    """Machine and process in a distributed training, known before the processes have met."""
    node = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    return int(node), int(os.environ.get("LOCAL_RANK", "0"))


def check_folder(augment: AugmentConfig) -> None:
    """Raises UserError where `dir_folder` is no folder with audio files, which are not opened."""
    folder = augment.dir_folder
    if folder == NONE:
        return
    if not os.path.isdir(folder):
        raise UserError(f"dir_folder is '{folder}', which is no folder: give one of impulse responses, or 'none'")
    if not files_below(Path(folder), suffixes=AUDIO_SUFFIXES):
        expected = ", ".join(sorted(AUDIO_SUFFIXES))
        raise UserError(f"dir_folder is '{folder}', which holds no impulse response: {expected} files are expected there")


def folder_state(folder: str) -> tuple[str | FileState | None, ...]:
    """Changes when the folder is another one or a response in it changes."""
    if folder == NONE:
        return (folder,)
    return folder, *(state_of(os.path.join(folder, name)) for name in files_below(Path(folder), suffixes=AUDIO_SUFFIXES))


def response_bank(folder: str, sample_rate: int, level: ResponseLevel) -> ResponseBank:
    """Measured responses from a folder, or simulated microphones where there is none."""
    if folder == NONE:
        bank = simulated_bank(sample_rate=sample_rate)
        print(
            f"No folder of impulse responses is given (dir_folder): {len(bank)} simulated microphones are used",
            flush=True,
        )
        return bank
    return load_responses(Path(folder), sample_rate=sample_rate, level=level)


def train_classifier(
    classifier: Classifier,
    run: StageRun,
    *,
    train: ClipSet,
    validation: ClipSet | None,
    data: PreparedData,
    objective: Objective,
    augment: AugmentConfig,
    optim: OptimConfig | BeatsOptimConfig,
    trainer: TrainerConfig,
    seed: int,
    patience_epochs: int = 0,
    teachers: MixedTeachers = "logits",
    further_waveform_augmentations: Sequence[Augmentation] = (),
    first_feature_augmentations: Sequence[Augmentation] = (),
) -> Fitted:
    """Lightning's training of a classifier in the run's work folder, on clips of `data`; without `validation` as a refit."""
    if optim.average.kind == "swa" and patience_epochs:
        raise UserError(
            f"optim.average.kind = swa averages the last {optim.average.share:.0%} of the epochs, which patience_epochs = "
            f"{patience_epochs} may leave out: set patience_epochs to 0, or take ema"
        )
    if optim.max_epochs < 1:
        raise UserError(f"optim.max_epochs should be 1 or more, got {optim.max_epochs}")
    sample_rate = train.waveforms.format.sample_rate
    heard = classifier.description.features.get("sample_rate", sample_rate)
    if heard != sample_rate:
        raise UserError(f"mel.sample_rate is {heard} Hz, the clips are prepared at {sample_rate} Hz: leave it at that")
    with in_section("augment"):
        augmentations = build_augmentations(
            augment,
            p_of_device=dir_p_of_clips(augment, data, train),
            sample_rate=sample_rate,
            seed=seed,
            teachers=teachers,
            shared=run.shared,
        )
    said = ("dir_devices", data.digest, augment.dir_devices, augment.dir_p > 0)
    run.shared.once(said, lambda: say_chosen_devices(augment, data.training_devices))
    run.shared.once(("absent", data.digest), lambda: say_absent_scenes(data))
    with in_section("optim"):
        optimizer = optimizer_of(optim)
        averaging = averaging_of(optim)
    if unended := unended_cycle(optim):
        run.shared.once(("unended cycle", unended), lambda: print(unended, flush=True))
    task = ClassifierTask(
        classifier,
        loss=objective.loss,
        measures=objective.measures(len(classifier.description.classes), len(data.devices), trainer.score),
        optimizer=optimizer,
        waveform_augmentations=[*augmentations.waveform, *further_waveform_augmentations],
        feature_augmentations=[*first_feature_augmentations, *augmentations.feature],
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
        patience_epochs=patience_epochs,
        averaging=averaging,
        watch=run.watch,
        log_mels=run.shared.once("log-mels", LogMelTables),
        log_mel_gb=trainer.log_mel_gb,
        trainer_options={
            "accelerator": trainer.accelerator,
            "devices": int(trainer.devices) if trainer.devices.isdigit() else trainer.devices,
            "strategy": trainer.strategy,
            "num_nodes": trainer.num_nodes,
            "precision": trainer.precision,
            "accumulate_grad_batches": trainer.accumulate_batches,
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
            layer_decay=optim.layer_decay,
        )
    return adam_with_warm_restarts(lr=optim.lr, restart_epochs=optim.restart_epochs, restart_factor=optim.restart_factor)


def fitted_result(run: StageRun, fitted: Fitted, *, note: str) -> Result:
    """The files of a training, and its best score where there is one."""
    best = fitted.best_score
    score = f"the last of {fitted.epochs} epochs: no clips were held back that could judge it"
    if best is not None:
        score = f"best validation {fitted.score_name} {best:.3f} in {fitted.epochs} epochs"
    return Result(
        metrics={} if best is None else {f"best/{fitted.score_name}": best},
        files=files_of_training(run, fitted),
        note=f"{note}\n\n{score}",
        summary=f"{run.name}: {score}",
    )


def files_of_training(run: StageRun, fitted: Fitted) -> dict[str, Path]:
    """Both checkpoints, and TensorBoard's events where there are any."""
    files = {BEST: fitted.best, f"{CHECKPOINTS}/last.ckpt": fitted.last}
    events = run.folder / "tensorboard"
    return {**files, "tensorboard": events} if events.is_dir() else files


def checkpoint_of(run: StageRun, value: str, *, data: PreparedData | None = None) -> Path:
    """The best checkpoint of a run, or a checkpoint file of the user's (also of the public reference trainer).

    Raises UpstreamError where `data` is given and the run learnt from other data.
    """
    if Path(value).is_file():
        return Path(value)
    if data is not None:
        run.shared.once(("checked", value, data.digest), lambda: runs.check_data(value, data.digest))
    return run.download(value, BEST)


def classifier_of(run: StageRun, value: str, data: PreparedData) -> Classifier:
    """That of a run's best checkpoint, or of a file. Raises UserError where it does not tell the data's scenes apart."""
    classifier = load_classifier(checkpoint_of(run, value, data=data), public_description=PUBLIC)
    check_scenes(value, classifier.description.classes, data)
    rate, wanted = classifier.description.features.get("sample_rate"), data.waveforms.format.sample_rate
    if rate not in (None, wanted):
        raise UserError(f"{value} is made for clips of {rate} Hz, those of the data have {wanted} Hz")
    return classifier


def student_of(run: StageRun, value: str, data: PreparedData) -> Classifier:
    """The same of TF-SepNet. Raises UserError for another network, such as a teacher's."""
    classifier = classifier_of(run, value, data)
    if classifier.description.kind != TFSEPNET:
        raise UserError(f"{value} holds a network of kind '{classifier.description.kind}', one of '{TFSEPNET}' is needed")
    return classifier


def check_scenes(what: str, scenes: Sequence[str], data: PreparedData) -> None:
    """Raises UserError where a model's scenes, in the order of its logits, are not those of the data."""
    if tuple(scenes) != data.classes:
        other = "in another order" if set(scenes) == set(data.classes) else "another task"
        raise UserError(f"{what} tells {', '.join(scenes)} apart, the data has {', '.join(data.classes)}: {other}")


def tfsepnet_description(
    classes: Sequence[str], mel: MelConfig = MelConfig(), model: ModelConfig = ModelConfig()
) -> ModelDescription:
    """TF-SepNet for these classes, of the report's size where nothing else is said."""
    return ModelDescription(kind=TFSEPNET, classes=tuple(classes), features=asdict(mel), network=asdict(model))


PUBLIC = tfsepnet_description(CLASSES)
"""What a checkpoint of the public trainer is taken for, which does not say it: its own published settings."""
