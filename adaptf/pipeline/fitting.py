"""A training from settings: what is checked before it, what Lightning gets, and what the run keeps of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adaptf.data.clip_set import ClipSet
from adaptf.data.clips import VALIDATION
from adaptf.data.data_module import ClipDataModule
from adaptf.data.log_mels import LogMelTables
from adaptf.errors import UserError, in_section
from adaptf.evaluation.scores import absent_scenes, say_absent
from adaptf.models.classifier import Classifier
from adaptf.pipeline.artifacts import BEST, CHECKPOINTS, SCENES_KIND
from adaptf.pipeline.augmentations import (
    Augmentations,
    build_augmentations,
    dir_p_of_clips,
    say_chosen_devices,
)
from adaptf.pipeline.config import AugmentConfig, BeatsOptimConfig, OptimConfig, TrainerConfig
from adaptf.pipeline.dataset import PreparedData
from adaptf.pipeline.lightning_options import callbacks, optimizer_of, trainer_options
from adaptf.pipeline.objectives import Objective
from adaptf.pipeline.schedule import unended_cycle
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun
from adaptf.training.augmentation import FeatureAugmentation
from adaptf.training.fit import Fitted, fit
from adaptf.training.logger import EpochLogger
from adaptf.training.task import ClassifierTask


@dataclass(frozen=True)
class Recipe:
    """The settings of one training."""

    augment: AugmentConfig
    optim: OptimConfig | BeatsOptimConfig
    trainer: TrainerConfig
    seed: int
    validated: Literal["each epoch", "the last"] = "each epoch"
    """Which epochs are: those that may be chosen as the best."""


def train_classifier(
    classifier: Classifier,
    run: StageRun,
    data: PreparedData,
    recipe: Recipe,
    objective: Objective,
    *,
    train: ClipSet,
    validation: ClipSet | None,
    first_feature_augmentations: Sequence[FeatureAugmentation] = (),
) -> Fitted:
    """Lightning's training of a classifier in the run's work folder, on clips of `data`;
    without `validation` as a refit."""
    _check_recipe(recipe, classifier, data)
    augmentations = _augmentations(run, data, recipe, objective, train)
    optim, trainer = recipe.optim, recipe.trainer
    with in_section("optim"):
        optimizer, called = optimizer_of(optim), callbacks(trainer, run.watch)
    _say(run, data, recipe)
    classes = len(classifier.description.classes)
    task = ClassifierTask(
        classifier,
        loss=objective.loss,
        measures=objective.measures(classes, len(data.devices), trainer.score),
        optimizer=optimizer,
        waveform_augmentations=augmentations.waveform,
        feature_augmentations=[*first_feature_augmentations, *augmentations.feature],
        generators=augmentations.generators,
    )
    clips = ClipDataModule(
        train,
        validation,
        batch_size=optim.batch_size,
        seed=recipe.seed,
        loading=trainer,
        keep=run.shared.once(LogMelTables, LogMelTables).keeper(classifier.features, trainer),
        waveforms_change=bool(augmentations.waveform),
    )
    return fit(
        task,
        clips,
        epochs=optim.max_epochs,
        validated_every=1 if recipe.validated == "each epoch" else optim.max_epochs,
        folder=run.folder / CHECKPOINTS,
        name=run.name,
        loggers=[EpochLogger(run.epoch_metrics().note)],
        callbacks=called,
        trainer_options=trainer_options(trainer),
    )


def _check_recipe(recipe: Recipe, classifier: Classifier, data: PreparedData) -> None:
    if recipe.optim.max_epochs < 1:
        raise UserError(f"optim.max_epochs should be 1 or more, got {recipe.optim.max_epochs}")
    rate = data.waveforms.format.sample_rate
    heard = classifier.description.features.get("sample_rate", rate)
    if heard != rate:
        raise UserError(
            f"mel.sample_rate is {heard} Hz, the clips are prepared at {rate} Hz: leave it at that"
        )


def _augmentations(
    run: StageRun, data: PreparedData, recipe: Recipe, objective: Objective, train: ClipSet
) -> Augmentations:
    with in_section("augment"):
        return build_augmentations(
            recipe.augment,
            p_of_clip=dir_p_of_clips(recipe.augment, data, train),
            sample_rate=data.waveforms.format.sample_rate,
            seed=recipe.seed,
            teachers=objective.mixed_teachers,
            shared=run.shared,
        )


def _say(run: StageRun, data: PreparedData, recipe: Recipe) -> None:
    """What the settings mean for these data, once in a process."""
    augment = recipe.augment
    said = ("dir_devices", data.digest, augment.dir_devices, augment.dir_p > 0)
    run.shared.once(said, lambda: say_chosen_devices(augment, data.training_devices))
    run.shared.once(("absent", data.digest), lambda: _say_absent_scenes(data))
    if unended := unended_cycle(recipe.optim):
        run.shared.once(("unended cycle", unended), lambda: print(unended, flush=True))


def _say_absent_scenes(data: PreparedData) -> None:
    """Which scenes of which device the accuracy on validation clips leaves out;
    nothing of clips without devices."""
    if data.kind != SCENES_KIND:
        return
    if said := say_absent(absent_scenes(data.table[data.table["split"] == VALIDATION], data.classes)):
        print(f"Validation clips: {said}", flush=True)


def fitted_result(run: StageRun, fitted: Fitted, *, note: str) -> Result:
    """The files of a training, and its best score where there is one."""
    best = fitted.best_score
    score = f"the last of {fitted.epochs} epochs: no clips were held back that could judge it"
    if best is not None:
        score = f"best validation {fitted.score_name} {best:.3f} in {fitted.epochs} epochs"
    return Result(
        metrics={} if best is None else {f"best/{fitted.score_name}": best},
        files=files_of_training(fitted),
        kept=BEST,
        note=f"{note}\n\n{score}",
        summary=f"{run.name}: {score}",
    )


def files_of_training(fitted: Fitted) -> dict[str, Path]:
    """Both checkpoints."""
    return {BEST: fitted.best, f"{CHECKPOINTS}/last.ckpt": fitted.last}
