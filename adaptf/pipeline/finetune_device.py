"""One device's fine-tuning, a nested run of `finetune`."""

from dataclasses import dataclass
from functools import partial

from adaptf.data.clip_set import ClipSet
from adaptf.data.clips import UNKNOWN, VALIDATION
from adaptf.evaluation.scores import accuracy
from adaptf.models.checkpoint import load_classifier, save_classifier
from adaptf.models.classifier import Classifier
from adaptf.names import in_markdown
from adaptf.pipeline.artifacts import BEST, DATA_KIND, DEVICE_TAG, KEPT, SCENES_KIND, START, TEACHER_KIND
from adaptf.pipeline.borrowed import Borrowed, matching_to, with_borrowed
from adaptf.pipeline.checkpoints import student_of
from adaptf.pipeline.config import (
    AugmentConfig,
    OptimConfig,
    TrainerConfig,
    upstream,
    upstream_each,
    upstream_model,
)
from adaptf.pipeline.dataset import PreparedData, load_prepared
from adaptf.pipeline.fitting import Recipe, files_of_training, train_classifier
from adaptf.pipeline.ranges import NOT_NEGATIVE, within
from adaptf.pipeline.refit import learnt_splits
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.taught import (
    LossConfig,
    logits_of_teachers,
    note_of,
    objective_of,
    taught,
    teacher_ids,
)
from adaptf.pipeline.validation import predict_validation, with_predictions, with_tables_of_unchosen
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun
from adaptf.training.augmentation import FeatureAugmentation, band_matching
from adaptf.training.fit import Fitted


@dataclass(frozen=True)
class FinetuneDeviceConfig:
    """Fine-tunes one device's model."""

    device: str = UNKNOWN
    """A device of the training clips, or `unknown`, which is trained on all of them."""
    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    distill_run: str = upstream_model("distill")
    """Run of `distill`, or a checkpoint file, from which the model starts."""
    teacher_runs: str = upstream_each("teacher", TEACHER_KIND, optional=True)
    """Runs of `teacher`, separated by commas; `latest`: the newest one of each kind; `none`: labels alone."""
    loss: LossConfig = LossConfig()
    min_validation_clips: int = within(NOT_NEGATIVE, 5)
    """With fewer validation clips of its own, the model is judged on those of all devices."""
    borrowed: Borrowed = "matched"
    """Whose clips a device's model learns from beside its own. matched: all others', brought to the band
    statistics of the device (Mezza et al., 2020), and its own, which are half at least. none: nobody's."""
    refit: bool = False
    """Trains on the validation clips too; nothing may be chosen by them then."""
    augment: AugmentConfig = AugmentConfig(dir_p=0.0)
    optim: OptimConfig = OptimConfig(lr=0.0008, max_epochs=10)
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Any whole number: starts the random numbers for the order of the clips and their augmentations."""


def _finetune_device(config: FinetuneDeviceConfig, run: StageRun) -> Result:
    """The model of the last epoch;
    it and its start are judged on the device's validation clips, which choose nothing."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    start = student_of(run, config.distill_run, data)
    validation, judged_on = _validation_clips(data, _own_device(config), config.min_validation_clips)
    predict = partial(predict_validation, run=run, data=data, trainer=config.trainer, clips=validation)
    tuned, epochs, files = start, 0, {}
    if config.optim.max_epochs:
        fitted = _tune(config, run, data, validation)
        tuned = load_classifier(fitted.last)
        epochs, files = fitted.epochs, files_of_training(fitted)
    # All scored alike: Lightning's score is that of the training's precision.
    predictions = {"start": predict(start), "fine-tuned": predict(tuned)}
    start_score, tuned_score = (accuracy(one, config.trainer.score) for one in predictions.values())
    scores = f"{start_score:.3f} before, {tuned_score:.3f} after {epochs} epochs"
    judged = f"Device **{in_markdown(config.device)}**, judged on {in_markdown(judged_on)}"
    note = f"{judged}: {scores}. {_what_is_kept(epochs)}"
    result = Result(
        metrics={START: start_score, KEPT: tuned_score},
        files={**files, BEST: save_classifier(tuned, run.folder / "kept" / "best.ckpt", epoch=epochs)},
        kept=BEST,
        tags={DEVICE_TAG: config.device},
        note=f"{note}\n\n{note_of(config.loss, run, teacher_ids(config.teacher_runs), data)}",
        summary=f"{run.name}: {note}",
    )
    shown = with_tables_of_unchosen(
        result, run, data, predictions, start=config.distill_run, refit=config.refit
    )
    return with_predictions(shown, run, {"start": predictions["start"], "kept": predictions["fine-tuned"]})


def _tune(config: FinetuneDeviceConfig, run: StageRun, data: PreparedData, validation: ClipSet) -> Fitted:
    """The training itself, with one validation at its end."""
    run_ids = teacher_ids(config.teacher_runs)
    tables = logits_of_teachers(config.loss, run, run_ids, data)
    student = student_of(run, config.distill_run, data)
    return train_classifier(
        student,
        run,
        data,
        Recipe(config.augment, config.optim, config.trainer, config.seed, validated="the last"),
        objective_of(config.loss, teachers=len(run_ids)),
        train=taught(_training_clips(config, data), tables, data),
        validation=taught(validation, tables, data),
        first_feature_augmentations=_matched_to_device(config, data, student, run),
    )


def _what_is_kept(epochs: int) -> str:
    return (
        "The last epoch is kept: validation clips chose nothing." if epochs else "The starting model is kept."
    )


def _own_device(config: FinetuneDeviceConfig) -> str | None:
    """The device whose clips are the model's own; None: those of all are."""
    return None if config.device == UNKNOWN else config.device


def _training_clips(config: FinetuneDeviceConfig, data: PreparedData) -> ClipSet:
    """Those of the device, alone or beside what it borrows, or of all."""
    splits = learnt_splits(config.refit)
    if _borrows(config):
        return with_borrowed(data, config.device, splits)
    return data.clips(*splits, device=_own_device(config))


def _borrows(config: FinetuneDeviceConfig) -> bool:
    """Whether the model learns from other devices' clips as if they were its device's."""
    return config.device != UNKNOWN and config.borrowed == "matched"


def _matched_to_device(
    config: FinetuneDeviceConfig, data: PreparedData, student: Classifier, run: StageRun
) -> list[FeatureAugmentation]:
    """What makes them so; nothing where none are borrowed."""
    if not _borrows(config):
        return []
    return [band_matching(matching_to(config.device, data, student, learnt_splits(config.refit), run))]


def _validation_clips(data: PreparedData, device: str | None, min_clips: int) -> tuple[ClipSet, str]:
    """The clips that judge a device's model, and what they are."""
    own = data.clips(VALIDATION, device=device)
    if device is None or len(own) >= min_clips:
        return own, f"{len(own)} validation clips of {device or 'all devices'}"
    every = data.clips(VALIDATION)
    return every, f"{len(every)} validation clips of all devices (only {len(own)} are of {device})"


FINETUNE_DEVICE = Stage("finetune_device", run=_finetune_device, config=FinetuneDeviceConfig, score=KEPT)
