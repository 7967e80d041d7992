"""Stage `pretrain`: TF-SepNet learns AudioSet's labels."""

from dataclasses import dataclass

from adaptf.data.clips import TRAIN, VALIDATION
from adaptf.models.classifier import build_classifier
from adaptf.pipeline.artifacts import AUDIOSET_KIND, BEST_PRECISION, DATA_KIND
from adaptf.pipeline.checks import check_training
from adaptf.pipeline.config import AugmentConfig, MelConfig, ModelConfig, OptimConfig, TrainerConfig, upstream
from adaptf.pipeline.dataset import load_prepared
from adaptf.pipeline.fitting import Recipe, fitted_result, train_classifier
from adaptf.pipeline.objectives import LABELS
from adaptf.pipeline.ranges import POSITIVE, within
from adaptf.pipeline.run_names import told
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.students import student_description
from adaptf.tracking.runs import Result, StageRun


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-trains TF-SepNet on AudioSet's labels (several per clip)."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: AUDIOSET_KIND})
    """Run of `prepare` that holds AudioSet."""
    sample_seconds: float = within(POSITIVE, 1.0)
    """Seconds of a clip that a training sample takes, drawn anew each time;
    for validation they are the middle."""
    mel: MelConfig = MelConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig(dir_devices=(), mixstyle_p=0.0, mixup_alpha=0.0)
    optim: OptimConfig = OptimConfig(batch_size=128, max_epochs=310)
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Any whole number: starts the random numbers for new weights, the order of the clips and their
    augmentations."""
    seeds: tuple[int, ...] = ()
    """Several seeds instead of one, as in 0,1,2: a child run with each of them, and here their mean and its
    95 % interval."""


def pretrain(config: PretrainConfig, run: StageRun) -> Result:
    """Mean average precision on clips that were cut out chooses the checkpoint; d-prime is told beside it."""
    data = load_prepared(run, config.prepare_run, kind=AUDIOSET_KIND)
    fitted = train_classifier(
        build_classifier(student_description(data.classes, config.mel, config.model)),
        run,
        data,
        Recipe(config.augment, config.optim, config.trainer, config.seed),
        LABELS,
        train=data.clips(TRAIN, sample_seconds=config.sample_seconds),
        validation=data.clips(VALIDATION, sample_seconds=config.sample_seconds),
    )
    return fitted_result(run, fitted, note=f"{len(data.classes)} AudioSet labels.")


PRETRAIN = Stage(
    "pretrain",
    run=pretrain,
    config=PretrainConfig,
    check=check_training,
    words=lambda config: told(config, "DIR", "lr"),
    score=BEST_PRECISION,
)


if __name__ == "__main__":
    PRETRAIN.main()
