"""Stage `sweep`: Optuna searches the settings of a stage, a nested run per trial, on one machine or many."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import mlflow
import optuna
from mlflow.exceptions import MlflowException
from optuna.trial import FrozenTrial, TrialState

from adaptf.data import clips
from adaptf.data.parquet import read_table
from adaptf.errors import UserError
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.finetune import FINETUNE, FinetuneConfig
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.artifacts import BEST_ACCURACY, CLIPS, DATA
from adaptf.pipeline.augmentations import chosen_devices
from adaptf.pipeline.config import MelConfig, ModelConfig, TrainerConfig, file_or_name, upstream_fields
from adaptf.pipeline.several import folds_of
from adaptf.pipeline.stage import Stage, nothing_tells
from adaptf.pipeline.upstream import resolve_upstream
from adaptf.sweeps.check import check_trial, check_values
from adaptf.sweeps.results import results
from adaptf.sweeps.search import SearchConfig, check_search, pruner, prunes, sampler
from adaptf.sweeps.space import Space, read_space, values_in, words
from adaptf.sweeps.storage import check_storage, has_begun
from adaptf.sweeps.study import AGREED, PARENT, begin_or_join
from adaptf.sweeps.trial import TrialFailed, TrialRunner
from adaptf.sweeps.tries import ERROR, VALUES, ended, first_number, last_tries, ranked
from adaptf.tracking import outcome, runs, stage_run
from adaptf.tracking.checkpoint_files import from_root
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import LATEST
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import UPSTREAM

STAGES: dict[str, Stage[Any]] = {stage.name: stage for stage in (DISTILL, TRAIN, FINETUNE)}


@dataclass(frozen=True)
class SweepConfig:
    """Searches the best settings of a stage. What stages share (mel, model, trainer, seed) is given once."""

    stage: Literal["distill", "train", "finetune"] = "distill"
    """The stage whose settings are searched."""
    sweep: SearchConfig = SearchConfig()
    prepare_run: str = file_or_name(LATEST)
    """Run of `prepare` that holds the scenes. This and the other runs are as in the stage; `latest` is looked
    up once, when a study begins."""
    pretrain_run: str = file_or_name(LATEST)
    """Where stage is train: run of `pretrain` from which the trials start, a checkpoint file, or `none`."""
    train_run: str = file_or_name(LATEST)
    """Where stage is distill: run of `train`, or a checkpoint file, from which the trials start."""
    teacher_runs: str = file_or_name(LATEST)
    """Where stage is distill or finetune: runs of `teacher`, separated by commas, that teach the trials."""
    distill_run: str = file_or_name(LATEST)
    """Where stage is finetune: run of `distill`, or a checkpoint file, from which the trials start."""
    mel: MelConfig = MelConfig()
    model: ModelConfig = ModelConfig()
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Any whole number: starts the random numbers of every trial's training; those of the search start from
    sweep.seed."""
    train: TrainConfig = TrainConfig()
    distill: DistillConfig = DistillConfig()
    finetune: FinetuneConfig = FinetuneConfig()


def sweep(config: SweepConfig, run: StageRun) -> Result:
    """Runs trials, beside all other workers of the study, until it has as many as it shall have."""
    search, settings = _search(config), stage_settings(config)
    space = read_space(search.space, config.stage, settings)
    study = begin_or_join(search, space, settings, stage=config.stage, run=run.run_id)
    parent = study.user_attrs[PARENT]
    _check_parent(parent)
    upstream = {field.name: study.user_attrs[AGREED][field.name] for field in upstream_fields(settings)}
    settings = resolve_upstream(replace(settings, **upstream))
    mlflow.set_tags({f"{UPSTREAM}{name}": value for name, value in upstream.items()})
    runs.name_run(run.run_id, f"sweep {config.stage} {search.study}", parent=None)
    epochs = settings.optim.max_epochs
    study.pruner = pruner(search, config.stage, epochs=epochs)
    study.sampler = sampler(seed=search.seed if parent == run.run_id else None)
    if parent == run.run_id:
        print(_begun(config.stage, search, space), flush=True)
        put_first(study, space, settings)
    else:
        print(f"{run.name}: joins study '{search.study}', whose run is {parent}", flush=True)
    run_trial = TrialRunner(
        STAGES[config.stage],
        settings,
        space,
        search.study,
        parent=parent,
        watched_epochs=epochs if prunes(search, config.stage) else 0,
        shared=run.shared,
    )
    _run_trials(study, run_trial, budget=search.trials)
    result = results(study, config.stage, settings, run, space=space)
    if parent == run.run_id:
        return result
    with mlflow.start_run(run_id=parent, nested=True):  # it ends as finished, also where its process is gone
        outcome.log_all(result)
    return replace(result, note=f"Worker of the sweep in run {parent}.\n\n{result.note}")


def stage_settings(config: SweepConfig) -> Any:
    """Of the stage that is swept, with the upstream runs that were given to the sweep."""
    settings = getattr(config, config.stage)
    given = {field.name: getattr(config, field.name) for field in upstream_fields(settings)}
    return replace(settings, **{name: from_root(value) for name, value in given.items() if value != LATEST})


def _search(config: SweepConfig) -> SearchConfig:
    """With the study's name."""
    name = config.stage if config.sweep.study == "default" else config.sweep.study
    return replace(config.sweep, study=name)


def check(config: SweepConfig) -> None:
    """Raises UserError for a search, a space or settings that can't be used, before any trial."""
    settings, search = stage_settings(config), _search(config)
    check_search(search)
    space = read_space(search.space, config.stage, settings)
    pruner(search, config.stage, epochs=settings.optim.max_epochs)
    if settings.seeds:
        raise UserError(
            f"{config.stage}.seeds and a sweep don't go together: sweep with one seed, then run the best "
            f"settings with several (mlflow run . -e {config.stage} -P preset=runs:/<id>/best.yaml -P "
            "seeds=0,1,2)"
        )
    if getattr(settings, "refit", False):
        raise UserError(
            f"{config.stage}.refit and a sweep don't go together: a refit leaves no clips to judge a trial "
            f"by. Sweep without it, then run the best settings with it (mlflow run . -e {config.stage} "
            "-P preset=runs:/<id>/best.yaml -P refit=true)"
        )
    if settings.trainer.several_processes:
        raise UserError(
            f"a trial trains on one device, trainer.devices is {settings.trainer.devices} and "
            f"trainer.num_nodes {settings.trainer.num_nodes}: start a worker for each device instead, with "
            f"the same sweep.study and sweep.storage"
        )
    check_storage(search)
    if not has_begun(search):  # its first worker has checked the values, on the study's own data
        settings = resolve_upstream(settings)
        if folds_of(settings):
            raise UserError(
                f"a sweep takes the data of one fold: name one of the runs below {settings.prepare_run}"
            )
        refuse = partial(check_trial, STAGES[config.stage], devices=_devices(settings.prepare_run))
        check_values(space, settings, refuse, value=search.space, stage=config.stage)


def _devices(prepare_run: str) -> list[str]:
    """Device names of the training clips. Raises UpstreamError where the run holds no data."""
    with TemporaryDirectory() as folder:
        return clips.devices_of(read_table(stage_run.download(prepare_run, DATA, Path(folder)) / CLIPS))


def _check_parent(run_id: str) -> None:
    """Raises UserError where the study's run is in another MLflow store, or was deleted."""
    try:
        active = mlflow.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        active = False
    if not active:
        raise UserError(
            f"the study's run {run_id} is not in {mlflow.get_tracking_uri()}: all workers of a study need "
            "the same MLflow store"
        )


def _begun(stage: str, search: SearchConfig, space: Space) -> str:
    """What a new study is about to do."""
    line = f"Study '{search.study}': {search.trials} trials of {stage} over {', '.join(space)}"
    if search.pruner == "none" or prunes(search, stage):
        return line
    return f"{line}\nTrials of finetune, each a training per device, can't be ended early"


def put_first(study: optuna.Study, space: Space, settings: Any) -> None:
    """The settings as they are in the first place, so that the best trial is at least as good."""
    only = chosen_devices(settings.augment, _devices(settings.prepare_run))
    values = values_in(space, replace(settings, augment=replace(settings.augment, dir_devices=only)))
    if values:
        study.enqueue_trial(values)
    else:
        print("The settings as they are lie outside of the space: no trial has them", flush=True)


def _run_trials(study: optuna.Study, run_trial: TrialRunner, *, budget: int) -> None:
    """Until so many have ended; before each, Optuna puts lost trials of others in line again."""
    tell = partial(_tell_outcome, budget=budget, parent=run_trial.parent)
    while ended(study) < budget:
        run_trial.taken.clear()
        try:
            study.optimize(run_trial, n_trials=1, catch=(TrialFailed,), callbacks=[tell])
        except ValueError:  # Optuna's, of a trial that has ended already
            if not run_trial.taken:
                raise
            lost = run_trial.taken[0]
            print(f"trial {lost}: no sign of life came for too long, another worker has it now", flush=True)


def _tell_outcome(study: optuna.Study, trial: FrozenTrial, *, budget: int, parent: str) -> None:
    """A line on the terminal, and the best score so far in the study's run."""
    done, values = ended(study), words(trial.user_attrs[VALUES])
    pruned = sum(one.state == TrialState.PRUNED for one in last_tries(study))
    parts = [f"trial {first_number(trial)}, {done} of {budget}: {_outcome(trial)} ({values})"]
    for best in ranked(study)[:1]:
        parts.append(f"best {best.values[0]:.3f} (trial {first_number(best)})")
        mlflow.MlflowClient().log_metric(parent, BEST_ACCURACY, best.values[0], step=done)
    print(", ".join([*parts, f"pruned {pruned}"]), flush=True)


def _outcome(trial: FrozenTrial) -> str:
    """Of a trial that is over, as in `0.512`, `pruned at epoch 3` or `failed`."""
    if trial.state == TrialState.COMPLETE:
        return f"{trial.values[0]:.3f}"
    if trial.state == TrialState.PRUNED and ERROR not in trial.user_attrs:
        return f"pruned at epoch {trial.last_step} with {trial.intermediate_values[trial.last_step or 0]:.3f}"
    return f"{'pruned' if trial.state == TrialState.PRUNED else 'failed'}, {trial.user_attrs[ERROR]}"


SWEEP = Stage(
    "sweep",
    run=sweep,
    config=SweepConfig,
    check=check,
    reads=nothing_tells,  # several workers run one sweep
    words=lambda config: [f"{config.stage} {_search(config).study}"],
)

if __name__ == "__main__":
    SWEEP.main()
