"""Stage `sweep`: Optuna searches the settings of a stage, one nested run per trial, on one machine or on many."""

import time
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import uuid4

import mlflow
import optuna
from mlflow.exceptions import MlflowException
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from adaptf.errors import UserError
from adaptf.mlproject.distill import DistillConfig, distill
from adaptf.mlproject.finetune import FinetuneConfig, finetune
from adaptf.mlproject.train import TrainConfig, train
from adaptf.pipeline.augmentations import chosen_devices
from adaptf.pipeline.config import MelConfig, ModelConfig, TrainerConfig, file_or_name, upstream_fields
from adaptf.pipeline.stage import Stage, run_stage
from adaptf.pipeline.upstream import resolve_upstream
from adaptf.sweeps.check import check_values, devices_of
from adaptf.sweeps.halving import Halving, halving_of
from adaptf.sweeps.places import (
    ERROR,
    PRUNED,
    RUN,
    SURPLUS,
    done_in,
    place_number,
    places_in,
    places_of,
    recover_lost,
    values_of,
)
from adaptf.sweeps.results import ranked, results_of
from adaptf.sweeps.sampler import sampler_of
from adaptf.sweeps.space import Space, read_space, values_in, words
from adaptf.sweeps.study import (
    SearchConfig,
    begin_or_join,
    check_search,
    check_storage,
    has_begun,
    open_storage,
    prunes,
    worker,
)
from adaptf.sweeps.trial import ACCURACY, WORST, SurplusTrial, TrialBusy, TrialFailed, Trials
from adaptf.tracking import runs
from adaptf.tracking.checkpoint_files import from_root
from adaptf.tracking.runs import LATEST, Result, StageRun

STAGES: dict[str, Stage] = {"distill": distill, "train": train, "finetune": finetune}
MOST_FAILURES = 3
"""So many trials that fail one after the other end a worker: it is not the values that are at fault."""
LONGEST_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class SweepConfig:
    """Searches the best settings of a stage. Sections that stages share (mel, model, trainer, seed) are given once."""

    stage: Literal["distill", "train", "finetune"] = "distill"
    """The stage whose settings are searched."""
    sweep: SearchConfig = SearchConfig()
    prepare_run: str = file_or_name(LATEST)
    """Run of `prepare` that holds the scenes. This and the other runs are as in the stage; `latest` is looked up once, when a
    study begins."""
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
    """Runs trials until the study has as many as it shall have, together with all other workers of the study."""
    search, settings = search_of(config), stage_settings(config)
    space = read_space(search.space, config.stage, settings)
    storage = open_storage(search.storage, study=search.study, heartbeat_seconds=search.heartbeat_seconds)
    study, about = begin_or_join(storage, search, space, settings, stage=config.stage, run=run.run_id)
    check_parent(about.run)
    settings = resolve_upstream(replace(settings, **about.upstream))
    mlflow.set_tags({f"{runs.UPSTREAM}{name}": value for name, value in about.upstream.items()})
    runs.name_run(run.run_id, f"sweep {config.stage} {search.study}", parent=None)
    study.sampler = sampler_of(search)
    halving = halving_of(search, settings) if prunes(search, config.stage) else None
    with worker(storage, search.study) as me:
        if about.run == run.run_id:
            print(begun(config.stage, search, space, halving), flush=True)
            put_first(study, search, space, settings)
        else:
            print(f"{run.name}: joins study '{search.study}', whose run is {about.run}", flush=True)
        trials = Trials(
            study,
            STAGES[config.stage],
            settings,
            space,
            budget=search.trials,
            halving=halving,
            scores=(ACCURACY, WORST)[: len(search.objectives)],
            parent=about.run,
            worker=me,
            shared=run.shared,
        )
        run_trials(trials, search)
    end_given_up(study)
    result = results_of(study, config.stage, settings, run)
    if about.run != run.run_id:
        with mlflow.start_run(run_id=about.run, nested=True):  # it ends as finished, also where its process is gone
            runs.log_result(result)
        result = replace(result, note=f"Worker of the sweep in run {about.run}.\n\n{result.note}")
    return result


def stage_settings(config: SweepConfig) -> Any:
    """Of the stage that is swept, with the upstream runs that were given to the sweep."""
    settings = getattr(config, config.stage)
    given = {field.name: getattr(config, field.name) for field in upstream_fields(settings)}
    return replace(settings, **{name: from_root(value) for name, value in given.items() if value != LATEST})


def search_of(config: SweepConfig) -> SearchConfig:
    """With the study's name."""
    name = config.stage if config.sweep.study == "default" else config.sweep.study
    return replace(config.sweep, study=name)


def check(config: SweepConfig) -> str:
    """Says what is wrong before any work; the digest is unlike any other, because several workers run the same sweep."""
    settings, search = stage_settings(config), search_of(config)
    check_search(search)
    space = read_space(search.space, config.stage, settings)
    if prunes(search, config.stage):
        halving_of(search, settings)
    if settings.seeds:
        raise UserError(
            f"{config.stage}.seeds and a sweep don't go together: sweep with one seed, then run the best settings with several "
            f"(mlflow run . -e {config.stage} -P preset=runs:/<id>/best.yaml -P seeds=0,1,2)"
        )
    if getattr(settings, "refit", False):
        raise UserError(
            f"{config.stage}.refit and a sweep don't go together: a refit leaves no clips to judge a trial by. Sweep without "
            f"it, then run the best settings with it (mlflow run . -e {config.stage} -P preset=runs:/<id>/best.yaml "
            "-P refit=true)"
        )
    if settings.trainer.devices != "1" or settings.trainer.num_nodes != 1:
        raise UserError(
            f"a trial trains on one device, trainer.devices is {settings.trainer.devices} and trainer.num_nodes "
            f"{settings.trainer.num_nodes}: start a worker for each device instead, with the same sweep.study and sweep.storage"
        )
    check_storage(search.storage)
    if not has_begun(search):  # its first worker has checked the values, on the study's own data
        check_values(space, resolve_upstream(settings), value=search.space, stage=config.stage)
    return uuid4().hex


def check_parent(run_id: str) -> None:
    """Raises UserError where the study's run is in another MLflow store, or was deleted."""
    try:
        active = mlflow.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        active = False
    if not active:
        raise UserError(
            f"the study's run {run_id} is not in {mlflow.get_tracking_uri()}: all workers of a study need the same MLflow store"
        )


def begun(stage: str, search: SearchConfig, space: Space, halving: Halving | None) -> str:
    """What a new study is about to do."""
    lines = [f"Study '{search.study}': {search.trials} trials of {stage} over {', '.join(space)}"]
    if search.pruner != "none" and not prunes(search, stage):
        why = "with two objectives" if len(search.objectives) == 2 else "of finetune, each a training per device,"
        lines.append(f"Trials {why} can't be ended early")
    if halving and not halving.looks:
        lines.append(f"Trials of {halving.max_epochs} epochs are too short to be ended early")
    return "\n".join(lines)


def put_first(study: optuna.Study, search: SearchConfig, space: Space, settings: Any) -> None:
    """The settings as they are in the first place, so that the best trial is at least as good."""
    if not search.default_first:
        return
    only = chosen_devices(settings.augment, devices_of(settings.prepare_run))
    values = values_in(space, replace(settings, augment=replace(settings.augment, dir_devices=only)))
    if values:
        study.enqueue_trial(values)
    else:
        print("The settings as they are lie outside of the space: no trial has them", flush=True)


def run_trials(trials: Trials, search: SearchConfig) -> None:
    """Until the budget is used; lost trials of others are run again."""
    said = False
    while True:
        recover_lost(trials.study, trials.worker)
        found = trials.study.get_trials(deepcopy=False)
        places = places_of(found)
        if done_in(places) >= search.trials:
            return
        waiting = any(trial.state == TrialState.WAITING for trial in found)
        running = sum(place.taken for place in places) - done_in(places)
        if waiting or done_in(places) + running < search.trials:
            said = False
            run_one(trials)
        else:
            if not said:
                print(f"Waiting for {running} trials of other workers", flush=True)
            said = True
            time.sleep(min(search.heartbeat_seconds / 2, LONGEST_WAIT_SECONDS))


def run_one(trials: Trials) -> None:
    """One trial, and the line that tells of it. Raises what stops the sweep."""
    number = -1

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        nonlocal number
        number = trial.number
        return trials.run(trial)

    try:
        trials.study.optimize(objective, n_trials=1, catch=(SurplusTrial, TrialFailed, TrialBusy))
    except (ValueError, UpdateFinishedTrialError):
        if not taken_away(trials.study, number):
            raise
        print(f"trial {number}: no sign of life came for too long, another worker has it now", flush=True)
        return
    tell(trials, number)
    if len(trials.failures) >= MOST_FAILURES:
        raise trials.failures[-1]


def end_given_up(study: optuna.Study) -> None:
    """Runs of trials whose process was lost too often: nobody else says that they have ended."""
    client = mlflow.MlflowClient()
    for place in places_in(study):
        run_id = place.last.user_attrs.get(RUN)
        if not place.taken and run_id and client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id, "FAILED")


def taken_away(study: optuna.Study, number: int) -> bool:
    """Whether others have ended a trial of this process."""
    found = [trial for trial in study.get_trials(deepcopy=False) if trial.number == number]
    return any(trial.state == TrialState.FAIL and not {ERROR, SURPLUS} & trial.user_attrs.keys() for trial in found)


def tell(trials: Trials, number: int) -> None:
    """A line on the terminal, and the best score so far in the study's run."""
    places = places_in(trials.study)
    place = next((place for place in places if number in [one.number for one in place.tries]), None)
    if place is None:
        return  # it was one too many
    mine = next(one for one in place.tries if one.number == number)  # another worker may have the next one
    done, pruned = done_in(places), sum(one.state == PRUNED for one in places)
    best = next(iter(ranked(places)), None)
    parts = [f"trial {place.number}, {done} of {trials.budget}: {outcome(mine)} ({words(values_of(mine))})"]
    if best:
        parts.append(f"best {best.values[0]:.3f} (trial {place_number(best)})")
    parts.append(f"pruned {pruned}")
    print(", ".join(parts), flush=True)
    client = mlflow.MlflowClient()
    if best:
        client.log_metric(trials.parent, ACCURACY, best.values[0], step=done)


def outcome(trial: FrozenTrial) -> str:
    """Of a try that is over, as in `0.512`, `pruned at epoch 3` or `failed`."""
    if trial.state == TrialState.COMPLETE:
        return " and ".join(f"{value:.3f}" for value in trial.values)
    if trial.state == TrialState.PRUNED:
        return f"pruned at epoch {trial.last_step} with {trial.intermediate_values[trial.last_step or 0]:.3f}"
    return f"failed, {trial.user_attrs[ERROR]}" if ERROR in trial.user_attrs else "lost"


if __name__ == "__main__":
    run_stage(sweep, SweepConfig, inputs=check)
