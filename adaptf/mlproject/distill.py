"""Stage `distill`: TF-SepNet learns from the labels and from an ensemble of teachers."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from adaptf.data.batch import ClipBatch
from adaptf.data.clip_set import ClipSet, with_teacher_logits
from adaptf.data.clips import VALIDATION
from adaptf.data.teacher_logits import TeacherLogits, read_teacher_logits
from adaptf.evaluation.scores import Score
from adaptf.mlproject.config import AugmentConfig, OptimConfig, TrainerConfig, upstream, upstream_each, upstream_model
from adaptf.mlproject.dataset import DATA_KIND, SCENES_KIND, PreparedData, load_prepared
from adaptf.mlproject.fitting import (
    Objective,
    checkpoint_of,
    fitted_result,
    in_section,
    scene_measures,
    student_of,
    train_classifier,
)
from adaptf.mlproject.refit import as_refit, check_choice, learnt_splits
from adaptf.mlproject.stage import run_stage
from adaptf.mlproject.teacher import LOGITS, TEACHER_KIND, TEACHER_MODEL
from adaptf.mlproject.validation_page import DISTILLED, predict_validation, predictions_from, with_validation_tables
from adaptf.models.checkpoint import load_classifier
from adaptf.tracking import runs
from adaptf.tracking.runs import Result, StageRun
from adaptf.training.augmentation import Augmentation, MixedTeachers
from adaptf.training.losses import DistillationLoss, Ensemble, KlReduction
from adaptf.training.metrics import Agreement
from adaptf.training.online_teachers import online_teachers
from adaptf.training.task import Measure

Hearing = Literal["clean", "augmented"]


@dataclass(frozen=True)
class LossConfig:
    """The distillation loss: weight * cross-entropy + (1 - weight) * T^2 * KL."""

    temperature: float = 2.0
    """T, which softens student's and teachers' logits alike."""
    weight: float = 0.02
    """Share of the labels' cross-entropy."""
    reduction: KlReduction = "elements"
    """elements: KL averaged over clips and classes, as published. clips: averaged over clips, ten times larger."""
    mixed_teachers: MixedTeachers = "logits"
    """With mixup: `logits` mixes the teachers' logits (the report), `terms` mixes two KL terms (the public trainer)."""
    teacher_weights: tuple[float, ...] = ()
    """Weights of the teachers in their mean, in the order of teacher_runs; empty: alike. Lets a better one count more."""
    teacher_temperatures: tuple[float, ...] = ()
    """A temperature per teacher instead of T; an empty list: T for all. Puts overconfident and timid teachers on one scale
    (Guo et al., 2017)."""
    teachers_hear: Hearing = "clean"
    """clean: cached logits of the clip as it is (the report). augmented: the teachers run in every step, on the clip after its
    impulse response; a teacher that hears what the student hears contradicts it less, at many times the cost (Beyer et al.,
    2022)."""


@dataclass(frozen=True)
class DistillConfig:
    """Distills an ensemble of teachers into TF-SepNet."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    train_run: str = upstream_model("train")
    """Run of `train`, or a checkpoint file, from which the student starts."""
    teacher_runs: str = upstream_each("teacher", TEACHER_KIND)
    """Runs of `teacher`, separated by commas; `latest`: the newest one of each kind."""
    refit: bool = False
    """Learns from the validation clips too, of which the teachers have left logits, for exactly optim.max_epochs, and takes the
    last one: nothing is left to choose by, so the number of epochs should come from a run before."""
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig(mixup_alpha=0.2)
    optim: OptimConfig = OptimConfig(max_epochs=310)
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Of order and augmentations."""
    seeds: tuple[int, ...] = ()
    """Several seeds, as in 0,1,2: a child run with each of them, and here their mean and interval."""


def distill(config: DistillConfig, run: StageRun) -> Result:
    """Macro-average accuracy on validation clips chooses the checkpoint; of a refit the last is taken."""
    if not config.refit:
        check_choice("train_run", config.train_run)
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    student = student_of(run, config.train_run, data)
    run_ids = config.teacher_runs.split(",")
    train, validation = run.shared.once(
        ("taught", config.prepare_run, config.refit, *run_ids),
        lambda: taught(data, [read_teacher_logits(run.download(run_id, LOGITS)) for run_id in run_ids], refit=config.refit),
    )
    loss = distillation_loss(config.loss, teachers=len(run_ids))
    names = [run.shared.once(("teacher name", run_id), partial(teacher_name, run_id)) for run_id in run_ids]
    note = note_of(config.loss, names)
    print(note, flush=True)
    fitted = train_classifier(
        student,
        run,
        train=train,
        validation=validation,
        data=data,
        objective=distillation_objective(loss),
        teachers=config.loss.mixed_teachers,
        further_waveform_augmentations=running_teachers(run, run_ids) if config.loss.teachers_hear == "augmented" else [],
        augment=config.augment,
        optim=config.optim,
        trainer=config.trainer,
        seed=config.seed,
    )
    if not runs.is_process_zero():
        return Result()
    if validation is None:
        return as_refit(fitted_result(run, fitted, note=note))
    predictions = predict_validation(fitted.best, data, config.trainer.accelerator)
    logits = loss.teacher(torch.from_numpy(validation.teacher_logits)).numpy()
    settings = {"teachers": predictions_from(logits, validation, data), DISTILLED: predictions}
    return with_validation_tables(fitted_result(run, fitted, note=note), data, settings)


def distillation_loss(config: LossConfig, *, teachers: int) -> DistillationLoss:
    """Raises UserError where there are not as many weights or temperatures as teachers."""
    loss = DistillationLoss(
        temperature=config.temperature,
        weight=config.weight,
        reduction=config.reduction,
        ensemble=Ensemble(config.teacher_weights, config.teacher_temperatures),
    )
    with in_section("loss.teacher_weights or loss.teacher_temperatures"):
        loss.teacher(torch.zeros(1, teachers, 1))
    return loss


def distillation_objective(loss: DistillationLoss) -> Objective:
    """The loss with its two terms; on validation clips also the teachers' accuracy and the student's agreement with them."""

    def parts(logits: Tensor, batch: ClipBatch) -> dict[str, Tensor]:
        return loss.parts(logits, batch.targets, batch.teacher_logits, batch.unmixed_teachers)

    def measures(classes: int, devices: int, score: Score) -> dict[str, Measure]:
        of_student = scene_measures(classes, devices, score)
        of_teachers = scene_measures(classes, devices, score)["accuracy"]
        return {
            **of_student,
            "teacher_accuracy": Measure(
                of_teachers.metric, lambda logits, batch: of_teachers.compares(loss.teacher(batch.teacher_logits), batch)
            ),
            "agreement": Measure(Agreement(), lambda logits, batch: (logits, loss.teacher(batch.teacher_logits))),
        }

    return Objective(parts, measures)


def taught(data: PreparedData, tables: list[TeacherLogits], *, refit: bool) -> tuple[ClipSet, ClipSet | None]:
    """Training and validation clips with every teacher's logits, looked up by file name; a refit has no validation clips."""

    def with_logits(clips: ClipSet) -> ClipSet:
        logits = [table.of(clips.filenames, classes=data.classes, data_digest=data.digest) for table in tables]
        return with_teacher_logits(clips, np.stack(logits, axis=1))

    train = with_logits(data.clips(*learnt_splits(refit)))
    return train, None if refit else with_logits(data.clips(VALIDATION))


def running_teachers(run: StageRun, run_ids: list[str]) -> list[Augmentation]:
    """The teachers themselves, from their runs' checkpoints."""
    return [online_teachers([load_classifier(checkpoint_of(run, run_id)) for run_id in run_ids])]


def note_of(config: LossConfig, teachers: list[str]) -> str:
    """What the student learns from."""
    heard = "" if config.teachers_hear == "clean" else " They hear the augmented clips."
    return f"Teachers: {', '.join(teachers)}.{heard} T = {config.temperature:g}, weight = {config.weight:g}."


def teacher_name(run_id: str) -> str:
    """Kind and network of a teacher, such as 'ssl (beats)' or 'ssl (small_cnn)'."""
    tags = runs.finished_run(run_id, "teacher").data.tags
    return f"{tags[TEACHER_KIND]} ({tags[TEACHER_MODEL]})"


if __name__ == "__main__":
    run_stage(distill, DistillConfig)
