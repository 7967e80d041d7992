"""One trial of a sweep: the stage in a nested run, watched, and what it scored."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import filelock
import mlflow
import optuna
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from optuna import TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial

from adaptf.data.shared_objects import SharedObjects
from adaptf.errors import UserError
from adaptf.pipeline.stage import Stage, execute
from adaptf.sweeps.halving import Halving
from adaptf.sweeps.places import ERROR, RUN, SURPLUS, VALUES, WORKER, is_surplus, place_number, places_in
from adaptf.sweeps.space import Space, suggested, with_values, words
from adaptf.sweeps.study import Worker
from adaptf.tracking import runs
from adaptf.tracking.runs import TRIAL, Busy, Result, StageRun, StopTraining, Watch

STUDY, STATE = "adaptf.study", "adaptf.trial.state"
"""Tags of a trial's run; the state is running, complete, pruned or failed."""
ACCURACY, WORST = "best/accuracy", "best/worst_device"
LONGEST_ERROR = 500
LONGEST_BUSY_SECONDS = 3600.0
"""So long a try waits for another process that does the same work."""


class SurplusTrial(Exception):
    """Another worker's trial was the last one of the budget."""


class TrialFailed(Exception):
    """A stage broke off; the sweep goes on with other values."""


class TrialBusy(Exception):
    """Another process does the trial's work for too long. The try counts as lost: its place is tried again, a few times."""


class Pruned(StopTraining):
    """Successive halving ends the training."""


@dataclass(frozen=True)
class Trials:
    """What the trials of a study have in common; `run` is what Optuna calls."""

    study: optuna.Study
    stage: Stage
    config: Any
    """Of the stage; each trial has other values in the fields of the space."""
    space: Space
    budget: int
    halving: Halving | None
    scores: Sequence[str]
    """Metrics of a trial's run that are the objectives."""
    parent: str
    """The run under which those of the trials are."""
    worker: Worker
    shared: SharedObjects = field(default_factory=SharedObjects)
    failures: list[Exception] = field(default_factory=list)
    """Of the trials of this worker since the last one that ended well."""

    def run(self, trial: Trial) -> tuple[float, ...]:
        """The objectives' values. Raises TrialPruned, SurplusTrial, TrialFailed, TrialBusy; UserError where the settings are
        at fault."""
        if is_surplus(frozen(trial), places_in(self.study), self.budget):
            trial.set_user_attr(SURPLUS, True)
            raise SurplusTrial
        trial.set_user_attr(WORKER, self.worker.name)
        values = suggested(trial, self.space)
        trial.set_user_attr(VALUES, values)
        try:
            run_id = self.execute_when_free(trial, values)
        except StopTraining as ended:
            self.failures.clear()
            raise TrialPruned from ended
        except (UpdateFinishedTrialError, TrialBusy):
            raise  # others took this process for dead, so the trial is theirs; or it will be tried again
        except Exception as error:
            with suppress(UpdateFinishedTrialError):
                trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}"[:LONGEST_ERROR])
            if isinstance(error, UserError):
                raise
            self.failures.append(error)
            raise TrialFailed from error
        self.failures.clear()
        trial.set_user_attr(RUN, run_id)
        scores = runs.scores(run_id)
        return tuple(scores[name] for name in self.scores)

    def execute_when_free(self, trial: Trial, values: Mapping[str, Any]) -> str:
        """Waits where another process does the same work: a stalled worker that had the trial before, or one whose trial of
        `finetune` has a device's settings in common. What that one finishes is taken from there."""
        until = time.monotonic() + LONGEST_BUSY_SECONDS
        while True:
            try:
                return self.execute(trial, values)
            except Busy as busy:
                print(f"trial {place_number(frozen(trial))} waits: {busy}", flush=True)
                try:
                    with filelock.FileLock(busy.lock, timeout=max(0.0, until - time.monotonic())):
                        pass  # the other one is done
                except filelock.Timeout:
                    raise TrialBusy from busy

    def execute(self, trial: Trial, values: Mapping[str, Any]) -> str:
        """The id of the nested run. A trial whose first run was interrupted on this machine goes on in it."""
        number = place_number(frozen(trial))
        tags = {TRIAL: str(number), STUDY: self.study.study_name, MLFLOW_PARENT_RUN_ID: self.parent}
        return execute(
            as_trial(self.stage, tags, self.scores, begun=lambda run_id: trial.set_user_attr(RUN, run_id)),
            with_values(self.config, values),
            inputs=lambda config: f"trial {number} of study {self.study.study_name} of run {self.parent}",
            name=f"{self.stage.__name__} {words(values)}",
            reuse=True,  # a worker may be lost between the end of the run and that of the trial
            watch=self.watch(trial, number) if self.halving else None,
            shared=self.shared,
        )

    def watch(self, trial: Trial, number: int) -> Watch:
        """Reports each validation, and ends the training where it falls behind."""
        scores = dict(frozen(trial).intermediate_values)

        def told(epoch: int, score: float) -> None:
            if epoch not in scores:  # a training that begins again says what it has said before
                trial.report(score, epoch)
            before = {earlier: value for earlier, value in scores.items() if earlier < epoch}
            due = self.halving and self.halving.looks_at(epoch, before)
            if self.halving and due and self.halving.ends(number, epoch, score, before, places_in(self.study)):
                raise Pruned(f"trial {number} falls behind after {epoch} epochs")
            scores[epoch] = score

        return told


def frozen(trial: Trial) -> FrozenTrial:
    """The trial as the storage has it."""
    return next(one for one in trial.study.get_trials(deepcopy=False) if one.number == trial.number)


def as_trial(stage: Stage, tags: Mapping[str, str], scores: Sequence[str], *, begun: Callable[[str], None]) -> Stage:
    """The stage, whose run says which trial it is and what became of it; it fails where a score is missing or no number."""

    def trial(config: Any, run: StageRun) -> Result:
        begun(run.run_id)
        mlflow.set_tags({**tags, STATE: "running"})
        try:
            result = with_worst_device(stage(config, run))
            check_scores(result, scores)
        except StopTraining:
            mlflow.set_tag(STATE, "pruned")
            raise
        except BaseException:
            mlflow.set_tag(STATE, "failed")
            raise
        return replace(result, tags={**result.tags, STATE: "complete"})

    trial.__name__ = stage.__name__
    return trial


def with_worst_device(result: Result) -> Result:
    """With the accuracy of the device that is worst, where those of devices are known."""
    of_devices = [value for name, value in result.metrics.items() if name.startswith(f"{ACCURACY}/")]
    worst = {WORST: min(of_devices)} if of_devices else {}
    return replace(result, metrics={**result.metrics, **worst})


def check_scores(result: Result, names: Sequence[str]) -> None:
    """Raises ArithmeticError for what a trial can't be judged by: Optuna would take such a trial for a lost one."""
    for name in names:
        if not math.isfinite(score := result.metrics.get(name, math.nan)):
            raise ArithmeticError(f"{name} is {score}")
