"""What the stages that learn from teachers share:
the loss's settings, clips with teachers' logits, who the teachers are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adaptf.data.batch import Labels
from adaptf.data.clip_set import ClipSet, with_teacher_logits
from adaptf.data.clips import VALIDATION
from adaptf.data.teacher_logits import TeacherLogits, read_teacher_logits
from adaptf.errors import UserError
from adaptf.evaluation.calibration import best_temperature
from adaptf.evaluation.scores import Score
from adaptf.pipeline.artifacts import LOGITS
from adaptf.pipeline.dataset import PreparedData
from adaptf.pipeline.objectives import SCENES, Objective, scene_measures
from adaptf.pipeline.ranges import POSITIVE, SHARE, within
from adaptf.pipeline.run_names import teacher_name
from adaptf.tracking.runs import NONE
from adaptf.tracking.stage_run import StageRun
from adaptf.training.augmentation import MixedTeachers
from adaptf.training.losses import DistillationLoss, KlReduction, mean_of_teachers
from adaptf.training.metrics import TeacherAgreement
from adaptf.training.task import Measure


@dataclass(frozen=True)
class LossConfig:
    """The distillation loss: weight * cross-entropy + (1 - weight) * T^2 * KL."""

    temperature: float = within(POSITIVE, 2.0)
    """T, above 0, by which the logits of student and teachers are divided: the higher, the more the less
    likely scenes count."""
    weight: float = within(SHARE, 0.02)
    """Share of the labels' cross-entropy in the loss, from 0 (teachers alone) to 1 (labels alone)."""
    reduction: KlReduction = "elements"
    """elements: KL is averaged over clips and classes, as published. clips: over clips alone, which makes it
    as many times larger as there are classes."""
    mixed_teachers: MixedTeachers = "logits"
    """What is mixed where mixup blends two clips. logits: the teachers' logits of both (the report). terms:
    the KL terms against each (the public trainer)."""
    teacher_scale: Literal["as_they_are", "calibrated"] = "as_they_are"
    """What the mean over teachers is of. as_they_are: their logits (the report). calibrated: those of each
    teacher divided by the temperature at which their log loss on validation clips is lowest, so that an
    overconfident teacher does not outweigh the others (Guo et al., 2017). That temperature means nothing of a
    teacher that has learnt from these clips, as published ones may have."""


def teacher_ids(teacher_runs: str) -> list[str]:
    """The runs that a field names; an empty list for `none`."""
    return [] if teacher_runs == NONE else teacher_runs.split(",")


def logits_of_teachers(
    config: LossConfig, run: StageRun, run_ids: Sequence[str], data: PreparedData
) -> list[TeacherLogits]:
    """Of each teacher the table that its run holds, on the scale that the settings ask for.

    Raises UserError where a temperature has to be found and can't be.
    """

    def read(run_id: str) -> TeacherLogits:
        table = read_teacher_logits(run.download(run_id, LOGITS))
        return calibrated(table, data) if config.teacher_scale == "calibrated" else table

    return [
        run.shared.once(("teacher logits", run_id, config.teacher_scale), partial(read, run_id))
        for run_id in run_ids
    ]


def calibrated(table: TeacherLogits, data: PreparedData) -> TeacherLogits:
    """The logits divided by their best temperature on validation clips. Raises UserError for none."""
    held = data.table[data.table["split"] == VALIDATION]
    logits = _of_clips(table, list(held["filename"]), data)
    try:
        temperature = best_temperature(logits, held["scene"].map(data.classes.index).to_numpy())
    except ValueError as error:
        raise UserError(
            f"loss.teacher_scale is calibrated, and on validation clips of teacher run {table.teacher_run} "
            f"{error}: leave that teacher out, or take loss.teacher_scale=as_they_are"
        ) from error
    return replace(table, logits=table.logits / np.float32(temperature), temperature=temperature)


def taught(clips: ClipSet, tables: Sequence[TeacherLogits], data: PreparedData) -> ClipSet:
    """Clips of the data with every teacher's logits, looked up by file name;
    as they are where there is no teacher."""
    logits = [_of_clips(table, clips.filenames, data) for table in tables]
    return with_teacher_logits(clips, np.stack(logits, axis=1)) if logits else clips


def _of_clips(table: TeacherLogits, filenames: Sequence[str], data: PreparedData) -> NDArray[np.float32]:
    """(clips, classes) of a teacher on these data, or of one over folds, who knows them by another digest."""
    of_folds = table.data_digest != data.digest and table.data_digest == data.learning_digest
    digest = data.learning_digest if of_folds else data.digest
    return table.of(filenames, classes=data.classes, data_digest=digest)


def objective_of(config: LossConfig, *, teachers: int) -> Objective:
    """Distillation: the loss with its two terms, and on validation clips also the teachers' accuracy and the
    student's agreement with them. The labels' cross-entropy alone where there are no teachers."""
    if not teachers:
        return SCENES
    loss = DistillationLoss(temperature=config.temperature, weight=config.weight, reduction=config.reduction)

    def parts(logits: Tensor, labels: Labels) -> dict[str, Tensor]:
        return loss.parts(logits, labels.targets, labels.teacher_logits, labels.unmixed_teachers)

    def measures(classes: int, devices: int, score: Score) -> dict[str, Measure]:
        of_teachers = scene_measures(classes, devices, score)["accuracy"]
        return {
            **scene_measures(classes, devices, score),
            "teacher_accuracy": Measure(
                of_teachers.metric,
                lambda logits, labels: of_teachers.compares(mean_of_teachers(labels.teacher_logits), labels),
            ),
            "agreement": Measure(
                TeacherAgreement(), lambda logits, labels: (logits, mean_of_teachers(labels.teacher_logits))
            ),
        }

    return Objective(parts, measures, config.mixed_teachers)


def note_of(config: LossConfig, run: StageRun, run_ids: Sequence[str], data: PreparedData) -> str:
    """What the student learns from."""
    if not run_ids:
        return "No teachers: labels alone."
    names = [run.shared.once(("teacher name", run_id), partial(teacher_name, run_id)) for run_id in run_ids]
    note = f"Teachers: {', '.join(names)}. T = {config.temperature:g}, weight = {config.weight:g}."
    if config.teacher_scale == "as_they_are":
        return note
    found = [f"{table.temperature:.2f}" for table in logits_of_teachers(config, run, run_ids, data)]
    return f"{note} Teachers' own temperatures on validation clips: {', '.join(found)}."
