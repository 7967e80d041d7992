"""Stage `distill`: TF-SepNet learns from the labels and from an ensemble of teachers."""

from dataclasses import dataclass

from adaptf.data.clips import VALIDATION
from adaptf.pipeline.artifacts import BEST_ACCURACY, DATA_KIND, SCENES_KIND, TEACHER_KIND
from adaptf.pipeline.checkpoints import student_of
from adaptf.pipeline.checks import check_training
from adaptf.pipeline.config import (
    AugmentConfig,
    OptimConfig,
    TrainerConfig,
    upstream,
    upstream_each,
    upstream_model,
)
from adaptf.pipeline.dataset import load_prepared
from adaptf.pipeline.fitting import Recipe, fitted_result, train_classifier
from adaptf.pipeline.folds import over_folds
from adaptf.pipeline.refit import as_refit, check_choice, learnt_splits
from adaptf.pipeline.run_names import told
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.taught import (
    LossConfig,
    logits_of_teachers,
    note_of,
    objective_of,
    taught,
    teacher_ids,
)
from adaptf.pipeline.validation import (
    DISTILLED,
    predict_validation,
    predictions_from,
    with_predictions,
    with_validation_tables,
)
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun, is_process_zero

_TEACHERS = "teachers"
"""What the tables call the mean of them."""


@dataclass(frozen=True)
class DistillConfig:
    """Distills an ensemble of teachers into TF-SepNet."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    train_run: str = upstream_model("train")
    """Run of `train`, or a checkpoint file, from which the student starts."""
    teacher_runs: str = upstream_each("teacher", TEACHER_KIND)
    """Runs of `teacher`, separated by commas, whose logits the student learns from; `latest`: the newest of
    each kind."""
    refit: bool = False
    """Learns from the validation clips too, of which the teachers have left logits, for exactly
    optim.max_epochs, and takes the last one:
    nothing is left to choose by, so the number of epochs should come from a run before."""
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig(mixup_alpha=0.2)
    optim: OptimConfig = OptimConfig(max_epochs=310)
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Any whole number: starts the random numbers for the order of the clips and their augmentations."""
    seeds: tuple[int, ...] = ()
    """Several seeds instead of one, as in 0,1,2: a child run with each of them, and here their mean and its
    95 % interval."""


def distill(config: DistillConfig, run: StageRun) -> Result:
    """Macro-average accuracy on validation clips chooses the checkpoint; of a refit the last is taken."""
    if not config.refit:
        check_choice("train_run", config.train_run)
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    student = student_of(run, config.train_run, data)
    run_ids = teacher_ids(config.teacher_runs)
    tables = logits_of_teachers(config.loss, run, run_ids, data)
    train = taught(data.clips(*learnt_splits(config.refit)), tables, data)
    validation = None if config.refit else taught(data.clips(VALIDATION), tables, data)
    note = note_of(config.loss, run, run_ids, data)
    print(note, flush=True)
    fitted = train_classifier(
        student,
        run,
        data,
        Recipe(config.augment, config.optim, config.trainer, config.seed),
        objective_of(config.loss, teachers=len(run_ids)),
        train=train,
        validation=validation,
    )
    if not is_process_zero():
        return Result()
    if validation is None:
        return as_refit(fitted_result(run, fitted, note=note))
    predictions = predict_validation(fitted.best, run, data, config.trainer)
    of_teachers = predictions_from(validation.teacher_logits.mean(axis=1), validation, data)
    settings = {_TEACHERS: of_teachers, DISTILLED: predictions}
    result = with_validation_tables(fitted_result(run, fitted, note=note), data, settings)
    return with_predictions(result, run, settings)


DISTILL = Stage(
    "distill",
    run=distill,
    config=DistillConfig,
    check=check_training,
    words=lambda config: told(config, "T", "w"),
    score=BEST_ACCURACY,
    folds=over_folds(_TEACHERS, DISTILLED),
)


if __name__ == "__main__":
    DISTILL.main()
