"""Stage `pretrain`: the student learns AudioSet's labels, or scenes other than those that it is for."""

from dataclasses import dataclass

from adaptf.data.clips import TRAIN, VALIDATION
from adaptf.models.classifier import build_classifier
from adaptf.pipeline.artifacts import AUDIOSET_KIND, DATA_KIND, SCENES_KIND
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
from adaptf.pipeline.objectives import OBJECTIVES
from adaptf.pipeline.pretrained import start_from
from adaptf.pipeline.ranges import POSITIVE, within
from adaptf.pipeline.run_names import told
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.students import student_description
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import NONE
from adaptf.tracking.stage_run import StageRun


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-trains the student on AudioSet's labels (several per clip) or on other scenes (one per clip)."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: AUDIOSET_KIND})
    """Run of `prepare` that holds AudioSet, of which `latest` means the newest; scenes are named by id."""
    pretrain_run: str = upstream_model("pretrain", optional=True, default=NONE)
    """Run of `pretrain` on other data, or a checkpoint file, to start from; `none` starts from scratch."""
    sample_seconds: float = within(POSITIVE, 1.0)
    """Seconds of an AudioSet clip that a training sample takes, drawn anew each time; for validation they are
    the middle. Clips of scenes are taken whole."""
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
    """Validation clips choose the checkpoint, of labels by mean average precision, of scenes by accuracy."""
    data = load_prepared(run, config.prepare_run, kind=None)
    classifier = build_classifier(student_description(data.classes, config.mel, config.model))
    origin = start_from(classifier, run, config.pretrain_run, data)
    fitted = train_classifier(
        classifier,
        run,
        data,
        Recipe(config.augment, config.optim, config.trainer, config.seed),
        OBJECTIVES[data.kind],
        train=data.clips(TRAIN, sample_seconds=config.sample_seconds),
        validation=data.clips(VALIDATION, sample_seconds=config.sample_seconds),
    )
    learnt = "scenes" if data.kind == SCENES_KIND else "AudioSet labels"
    return fitted_result(run, fitted, note=f"{len(data.classes)} {learnt}. {origin}")


PRETRAIN = Stage(
    "pretrain",
    run=pretrain,
    config=PretrainConfig,
    check=check_training,
    words=lambda config: told(config, "DIR", "lr"),
    score="best/",
)


if __name__ == "__main__":
    PRETRAIN.main()
