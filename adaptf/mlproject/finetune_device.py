"""One device's fine-tuning, a nested run of `finetune`."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from adaptf.data.clip_set import ClipSet
from adaptf.data.clips import TRAIN, UNKNOWN, VALIDATION
from adaptf.evaluation.scores import accuracy
from adaptf.mlproject.config import AugmentConfig, OptimConfig, TrainerConfig, upstream, upstream_model
from adaptf.mlproject.dataset import DATA_KIND, SCENES_KIND, PreparedData, load_prepared
from adaptf.mlproject.fitting import BEST, SCENES, fitted_result, student_of, train_classifier
from adaptf.mlproject.validation_page import predict_validation, with_predictions, with_validation_tables
from adaptf.models.checkpoint import save_classifier
from adaptf.tracking.runs import NONE, Result, StageRun

START, KEPT = "start/accuracy", "kept/accuracy"
Keep = Literal["best", "last"]


@dataclass(frozen=True)
class FinetuneDeviceConfig:
    """Fine-tunes one device's model."""

    device: str = UNKNOWN
    """A device of the training clips, or `unknown`, which is trained on all of them."""
    left_out: str = NONE
    """A device that training leaves out and that judges the model, as if it were unknown."""
    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    distill_run: str = upstream_model("distill")
    """Run of `distill`, or a checkpoint file, from which the model starts."""
    min_validation_clips: int = 5
    """With fewer validation clips of its own, the model is judged on those of all devices."""
    patience_epochs: int = 160
    """Training ends after so many epochs without a better score; 0: never."""
    keep: Keep = "best"
    """best: the best of start and epochs on the validation clips. last: the last epoch, whose number was chosen before."""
    augment: AugmentConfig = AugmentConfig(dir_p=0.0)
    optim: OptimConfig = OptimConfig(lr=0.0008, max_epochs=400)
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Of order and augmentations."""


def finetune_device(config: FinetuneDeviceConfig, run: StageRun) -> Result:
    """The best checkpoint on the device's validation clips, or the start where training does not improve on it."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    start = student_of(run, config.distill_run, data)
    validation, judged_on = validation_clips(data, judge_of(config), config.min_validation_clips)
    before = predict_validation(start, data, config.trainer.accelerator, clips=validation)
    start_score = accuracy(before, config.trainer.score)
    tags = {"adaptf.device": config.device}
    if config.optim.max_epochs == 0:
        note = f"Device **{config.device}** keeps the starting model: 0 epochs, {start_score:.3f} on {judged_on}."
        scores = {START: start_score, KEPT: start_score}
        kept = Result(scores, {BEST: start_as_best(config, run, data)}, tags, note=note, summary=f"{run.name}: {note}")
        return with_page(kept, run, data, before=before, after=before, helped=False)
    fitted = train_classifier(
        start,
        run,
        train=training_clips(config, data),
        validation=validation,
        data=data,
        objective=SCENES,
        augment=config.augment,
        optim=config.optim,
        trainer=config.trainer,
        seed=config.seed,
        patience_epochs=config.patience_epochs,
    )
    if config.keep == "last":
        fitted = replace(fitted, best=copy_as_best(run, fitted.last))
    # Scored as the start was: Lightning's score is that of the training's precision.
    after = predict_validation(fitted.best, data, config.trainer.accelerator, clips=validation)
    score = accuracy(after, config.trainer.score)
    helped = config.keep == "last" or score > start_score
    note = f"Device **{config.device}**, judged on {judged_on}: {start_score:.3f} before, {score:.3f} after. " + (
        "The fine-tuned model is kept." if helped else "Fine-tuning did not help: the starting model is kept."
    )
    result = fitted_result(run, fitted, note=note)
    result = replace(
        result,
        metrics={**result.metrics, START: start_score, KEPT: score if helped else start_score},
        files=result.files if helped else {**result.files, BEST: start_as_best(config, run, data)},
        tags=tags,
        summary=f"{run.name}: {note}",
    )
    return with_page(result, run, data, before=before, after=after, helped=helped)


def with_page(
    result: Result, run: StageRun, data: PreparedData, *, before: pd.DataFrame, after: pd.DataFrame, helped: bool
) -> Result:
    """The result with the tables of start and fine-tuned model, and the predictions of the one and of the one that is kept."""
    shown = with_validation_tables(result, data, {"start": before, "fine-tuned": after})
    return with_predictions(shown, run, {"start": before, "kept": after if helped else before})


def judge_of(config: FinetuneDeviceConfig) -> str | None:
    """The device on whose validation clips the model is judged; None: on those of all."""
    if config.left_out != NONE:
        return config.left_out
    return None if config.device == UNKNOWN else config.device


def training_clips(config: FinetuneDeviceConfig, data: PreparedData) -> ClipSet:
    """Those of the device, of all, or of all but one."""
    if config.left_out == NONE:
        return data.clips(TRAIN, device=None if config.device == UNKNOWN else config.device)
    rows = data.table[(data.table["split"] == TRAIN) & (data.table["device"] != config.left_out)]
    return data.clip_set(rows, TRAIN)


def validation_clips(data: PreparedData, device: str | None, min_clips: int) -> tuple[ClipSet, str]:
    """The clips that choose a device's checkpoint, and what they are."""
    own = data.clips(VALIDATION, device=device)
    if device is None or len(own) >= min_clips:
        return own, f"{len(own)} validation clips of {device or 'all devices'}"
    every = data.clips(VALIDATION)
    return every, f"{len(every)} validation clips of all devices (only {len(own)} are of {device})"


def start_as_best(config: FinetuneDeviceConfig, run: StageRun, data: PreparedData) -> Path:
    """The starting model under the name that the next stage asks for, without what a user's file holds beside it."""
    start = student_of(run, config.distill_run, data)  # anew: that which was trained has other weights now
    return save_classifier(start, run.folder / "start" / "best.ckpt", epoch=0)


def copy_as_best(run: StageRun, checkpoint: Path) -> Path:
    """A model under the name that the next stage asks for."""
    copy = run.folder / "kept" / "best.ckpt"
    copy.parent.mkdir(exist_ok=True)
    return Path(shutil.copyfile(checkpoint, copy))
