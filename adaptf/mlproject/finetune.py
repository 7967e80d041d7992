"""Stage `finetune`: one model per recording device, and `unknown` for all others."""

import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from adaptf.data.clip_set import ClipSet
from adaptf.data.clips import TRAIN, UNKNOWN, VALIDATION, devices_of
from adaptf.evaluation.predict import inference_device, predict_logits
from adaptf.evaluation.scores import macro_accuracy, prediction_table
from adaptf.mlproject.config import AugmentConfig, OptimConfig, TrainerConfig, upstream
from adaptf.mlproject.dataset import DATA_KIND, SCENES_KIND, PreparedData, load_prepared
from adaptf.mlproject.fitting import BEST, SCENES, checkpoint_of, fitted_result, tfsepnet_description, train_classifier
from adaptf.mlproject.stage import execute, run_stage
from adaptf.models.checkpoint import load_classifier
from adaptf.models.classifier import Classifier
from adaptf.tracking.runs import Result, StageRun

logger = logging.getLogger(__name__)
MODELS = "models.json"
"""Artifact: device -> run id of its model."""


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tunes the distilled model for each recording device."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    distill_run: str = upstream("distill")
    """Run of `distill`, or a checkpoint file, from which each device's model starts."""
    devices: tuple[str, ...] = ()
    """Devices with a model of their own beside `unknown`; an empty list means every device of the training clips."""
    min_clips: int = 50
    """A device with fewer training clips gets no model of its own and is served by `unknown`."""
    min_validation_clips: int = 20
    """A device with fewer validation clips is judged on those of all devices."""
    augment: AugmentConfig = AugmentConfig(dir_p=0.0)
    """Of the devices' models."""
    unknown_dir_p: float = 0.8
    """Probability of an impulse response in training `unknown`, on clips of the devices in `augment.dir_devices`."""
    optim: OptimConfig = OptimConfig(lr=0.0008, max_epochs=400)
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Of order and augmentations."""


@dataclass(frozen=True)
class FinetuneDeviceConfig:
    """Fine-tunes one device's model."""

    device: str = UNKNOWN
    """A device of the training clips, or `unknown`, which is trained on all of them."""
    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    distill_run: str = upstream("distill")
    """Run of `distill`, or a checkpoint file, from which the model starts."""
    min_validation_clips: int = 20
    """With fewer validation clips of its own, the model is judged on those of all devices."""
    augment: AugmentConfig = AugmentConfig(dir_p=0.0)
    optim: OptimConfig = OptimConfig(lr=0.0008, max_epochs=400)
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Of order and augmentations."""


def finetune(config: FinetuneConfig, run: StageRun) -> Result:
    """A nested run per device; a device whose run has finished is not trained again."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    models = {}
    for device in [*devices_to_tune(config, data), UNKNOWN]:
        augment = replace(config.augment, dir_p=config.unknown_dir_p) if device == UNKNOWN else config.augment
        models[device] = execute(
            finetune_device,
            FinetuneDeviceConfig(
                device=device,
                prepare_run=config.prepare_run,
                distill_run=config.distill_run,
                min_validation_clips=config.min_validation_clips,
                augment=augment,
                optim=config.optim,
                trainer=config.trainer,
                seed=config.seed,
            ),
            name=f"finetune {device}",
            reuse=True,
        )
    path = run.folder / MODELS
    path.write_text(json.dumps(models, indent=1))
    rows = "\n".join(f"| {device} | {run_id} |" for device, run_id in models.items())
    return Result(files={MODELS: path}, note=f"| device | run |\n|---|---|\n{rows}")


def devices_to_tune(config: FinetuneConfig, data: PreparedData) -> list[str]:
    """The devices asked for that have enough training clips; a warning names the others."""
    counts = data.table[data.table["split"] == TRAIN]["device"].value_counts()
    wanted = list(config.devices) or devices_of(data.table)
    few = [device for device in wanted if counts.get(device, 0) < config.min_clips]
    for device in few:
        logger.warning(
            "Device %s has %d training clips, fewer than min_clips = %d: it gets no model of its own and is served by '%s'",
            device,
            counts.get(device, 0),
            config.min_clips,
            UNKNOWN,
        )
    return [device for device in wanted if device not in few and device != UNKNOWN]


def finetune_device(config: FinetuneDeviceConfig, run: StageRun) -> Result:
    """The best checkpoint on the device's validation clips, or the start where training does not improve on it."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    only = None if config.device == UNKNOWN else config.device
    start_path = checkpoint_of(run, config.distill_run)
    start = load_classifier(start_path, public_description=tfsepnet_description(data.classes))
    validation, judged_on = validation_clips(data, only, config.min_validation_clips)
    start_score = validation_score(start, validation, data, config.trainer.accelerator)
    fitted = train_classifier(
        start,
        run,
        train=data.clips(TRAIN, device=only),
        validation=validation,
        devices=data.devices,
        objective=SCENES,
        augment=config.augment,
        optim=config.optim,
        trainer=config.trainer,
        seed=config.seed,
    )
    improved = fitted.best_score > start_score
    note = f"Device **{config.device}**, judged on {judged_on}: {start_score:.3f} before, {fitted.best_score:.3f} after. " + (
        "The fine-tuned model is kept." if improved else "Fine-tuning did not help: the starting model is kept."
    )
    result = fitted_result(run, fitted, SCENES, note=note)
    kept = result.files if improved else {**result.files, BEST: copy_as_best(run, start_path)}
    metrics = {**result.metrics, "start/accuracy": start_score, "kept/accuracy": max(start_score, fitted.best_score)}
    return Result(metrics=metrics, files=kept, tags={"adaptf.device": config.device}, note=note, summary=f"{run.name}: {note}")


def validation_clips(data: PreparedData, device: str | None, min_clips: int) -> tuple[ClipSet, str]:
    """The clips that choose a device's checkpoint, and what they are."""
    own = data.clips(VALIDATION, device=device)
    if device is None or len(own) >= min_clips:
        return own, f"{len(own)} validation clips of {device or 'all devices'}"
    every = data.clips(VALIDATION)
    return every, f"{len(every)} validation clips of all devices (only {len(own)} are of {device})"


def validation_score(classifier: Classifier, clips: ClipSet, data: PreparedData, accelerator: str) -> float:
    """Macro-average accuracy."""
    device = inference_device(accelerator)
    logits = predict_logits(classifier.to(device), clips, device=device)
    classifier.to("cpu")
    rows = data.table.set_index("filename").loc[list(clips.filenames)].reset_index()
    return macro_accuracy(prediction_table(rows, logits, data.classes))


def copy_as_best(run: StageRun, checkpoint: Path) -> Path:
    """The starting model under the name that the next stage asks for."""
    copy = run.folder / "start" / "best.ckpt"
    copy.parent.mkdir(exist_ok=True)
    return Path(shutil.copyfile(checkpoint, copy))


if __name__ == "__main__":
    run_stage(finetune, FinetuneConfig)
