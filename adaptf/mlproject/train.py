"""Stage `train`: TF-SepNet learns the scenes, from a pre-trained network or from scratch."""

from dataclasses import dataclass

from adaptf.data.clips import VALIDATION
from adaptf.models.classifier import build_classifier
from adaptf.pipeline.artifacts import BEST_ACCURACY, DATA_KIND, SCENES_KIND
from adaptf.pipeline.checks import check_training
from adaptf.pipeline.config import (
    AugmentConfig,
    MelConfig,
    ModelConfig,
    OptimConfig,
    TrainerConfig,
    upstream,
    upstream_model,
)
from adaptf.pipeline.dataset import load_prepared
from adaptf.pipeline.fitting import Recipe, fitted_result, train_classifier
from adaptf.pipeline.folds import over_folds
from adaptf.pipeline.objectives import SCENES
from adaptf.pipeline.pretrained import start_from
from adaptf.pipeline.refit import as_refit, learnt_splits
from adaptf.pipeline.run_names import told
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.students import student_description
from adaptf.pipeline.validation import TRAINED, predict_validation, with_predictions, with_validation_tables
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun, is_process_zero


@dataclass(frozen=True)
class TrainConfig:
    """Trains TF-SepNet on the scenes."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    pretrain_run: str = upstream_model("pretrain", optional=True)
    """Run of `pretrain`, a checkpoint file, or `none` to start from scratch."""
    refit: bool = False
    """Trains on the validation clips too, for exactly optim.max_epochs, and takes the last one: nothing is
    left to choose by, so the number of epochs should come from a run before."""
    mel: MelConfig = MelConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Any whole number: starts the random numbers for new weights, the order of the clips and their
    augmentations."""
    seeds: tuple[int, ...] = ()
    """Several seeds instead of one, as in 0,1,2: a child run with each of them, and here their mean and its
    95 % interval."""


def train(config: TrainConfig, run: StageRun) -> Result:
    """Macro-average accuracy on validation clips chooses the checkpoint; of a refit the last is taken."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    classifier = build_classifier(student_description(data.classes, config.mel, config.model))
    origin = start_from(classifier, run, config.pretrain_run, data)
    fitted = train_classifier(
        classifier,
        run,
        data,
        Recipe(config.augment, config.optim, config.trainer, config.seed),
        SCENES,
        train=data.clips(*learnt_splits(config.refit)),
        validation=None if config.refit else data.clips(VALIDATION),
    )
    if not is_process_zero():
        return Result()
    if config.refit:
        return as_refit(fitted_result(run, fitted, note=origin))
    settings = {TRAINED: predict_validation(fitted.best, run, data, config.trainer)}
    result = with_validation_tables(fitted_result(run, fitted, note=origin), data, settings)
    return with_predictions(result, run, settings)


TRAIN = Stage(
    "train",
    run=train,
    config=TrainConfig,
    check=check_training,
    words=lambda config: told(config, "DIR", "lr"),
    score=BEST_ACCURACY,
    folds=over_folds(TRAINED),
)


if __name__ == "__main__":
    TRAIN.main()
