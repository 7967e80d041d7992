"""Stage `distill`: TF-SepNet learns from the labels and from an ensemble of teachers."""

from dataclasses import dataclass

import numpy as np

from adaptf.data.clip_set import ClipSet, with_teacher_logits
from adaptf.data.clips import TRAIN, VALIDATION
from adaptf.data.teacher_logits import TeacherLogits, read_teacher_logits
from adaptf.errors import UserError
from adaptf.mlproject.config import AugmentConfig, OptimConfig, TrainerConfig, upstream, upstream_each
from adaptf.mlproject.dataset import DATA_KIND, SCENES_KIND, load_prepared
from adaptf.mlproject.fitting import SCENES, checkpoint_of, fitted_result, tfsepnet_description, train_classifier
from adaptf.mlproject.stage import run_stage
from adaptf.mlproject.teacher import LOGITS, TEACHER_KIND, TEACHER_MODEL
from adaptf.models.checkpoint import load_classifier
from adaptf.tracking import runs
from adaptf.tracking.runs import Result, StageRun
from adaptf.training.augmentation import MixedTeachers
from adaptf.training.losses import DistillationLoss, KlReduction


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


@dataclass(frozen=True)
class DistillConfig:
    """Distills an ensemble of teachers into TF-SepNet."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    train_run: str = upstream("train")
    """Run of `train`, or a checkpoint file, from which the student starts."""
    teacher_runs: str = upstream_each("teacher", TEACHER_KIND)
    """Runs of `teacher`, separated by commas; `latest`: the newest one of each kind."""
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig(mixup_alpha=0.2)
    optim: OptimConfig = OptimConfig(max_epochs=300)
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Of order and augmentations."""


def distill(config: DistillConfig, run: StageRun) -> Result:
    """Macro-average accuracy on validation clips chooses the checkpoint."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    student = load_classifier(checkpoint_of(run, config.train_run), public_description=tfsepnet_description(data.classes))
    if student.description.classes != data.classes:
        raise UserError(f"{config.train_run} was trained on {student.description.classes}, the data has {data.classes}")
    run_ids = config.teacher_runs.split(",")
    tables = [read_teacher_logits(run.download(run_id, LOGITS)) for run_id in run_ids]
    names = [teacher_name(run_id) for run_id in run_ids]
    loss = DistillationLoss(temperature=config.loss.temperature, weight=config.loss.weight, reduction=config.loss.reduction)
    note = f"Teachers: {', '.join(names)}. T = {config.loss.temperature:g}, weight = {config.loss.weight:g}."
    print(note, flush=True)
    fitted = train_classifier(
        student,
        run,
        train=taught(data.clips(TRAIN), tables, data.classes, run_ids),
        validation=data.clips(VALIDATION),
        devices=data.devices,
        objective=SCENES,
        loss=lambda logits, batch: loss.parts(logits, batch.targets, batch.teacher_logits, batch.unmixed_teachers),
        teachers=config.loss.mixed_teachers,
        augment=config.augment,
        optim=config.optim,
        trainer=config.trainer,
        seed=config.seed,
    )
    return fitted_result(run, fitted, SCENES, note=note)


def taught(clips: ClipSet, tables: list[TeacherLogits], classes: tuple[str, ...], run_ids: list[str]) -> ClipSet:
    """The clips with every teacher's logits, looked up by file name."""
    logits = [
        table.of(clips.filenames, classes, source=f"teacher run {run_id}")
        for table, run_id in zip(tables, run_ids, strict=True)
    ]
    return with_teacher_logits(clips, np.stack(logits, axis=1))


def teacher_name(run_id: str) -> str:
    """Kind and network of a teacher, such as 'ssl (beats)' or 'ssl (small_cnn)'."""
    tags = runs.finished_run(run_id, "teacher").data.tags
    return f"{tags[TEACHER_KIND]} ({tags[TEACHER_MODEL]})"


if __name__ == "__main__":
    run_stage(distill, DistillConfig)
