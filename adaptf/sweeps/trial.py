"""One trial of a sweep: the stage in a nested run, watched, and what it scored."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import mlflow
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from optuna import TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial

from adaptf.data.shared_objects import SharedObjects
from adaptf.errors import UserError
from adaptf.pipeline.artifacts import BEST_ACCURACY
from adaptf.pipeline.interrupts import INTERRUPTS, last_words
from adaptf.pipeline.stage import Stage, execute
from adaptf.sweeps.space import Space, suggested, with_values, words
from adaptf.sweeps.tries import ERROR, RUN, VALUES, first_number, run_again
from adaptf.tracking import lease, runs
from adaptf.tracking.lease import Busy, LeaseLost
from adaptf.tracking.outcome import Result
from adaptf.tracking.server import patiently
from adaptf.tracking.stage_run import StageRun, StopTraining, Watch
from adaptf.tracking.tags import TRIAL
from adaptf.training.divergence import Diverged

_STUDY, _STATE = "adaptf.study", "adaptf.trial.state"
"""Tags of a trial's run; the state is running, complete, pruned or failed."""
_LONGEST_ERROR = 500
_MOST_FAILURES = 3
"""So many trials that fail one after the other end a worker: it is not the values that are at fault."""


class TrialFailed(Exception):
    """A stage broke off; the sweep goes on with other values."""


class _Pruned(StopTraining):
    """Successive halving ends the training."""


@dataclass(frozen=True)
class TrialRunner:
    """What Optuna calls with each trial of this worker."""

    stage: Stage[Any]
    config: Any
    """Of the stage; each trial has other values in the fields of the space."""
    space: Space
    study: str
    parent: str
    """The run under which those of the trials are."""
    watched_epochs: int
    """A trial may be ended before so many epochs; 0: it is not watched."""
    shared: SharedObjects = field(default_factory=SharedObjects)
    failures: list[Exception] = field(default_factory=list)
    """Since the last trial that ended well."""
    taken: list[int] = field(default_factory=list)
    """Numbers of trials that others have taken from this worker, having heard nothing of it for too long."""

    def __call__(self, trial: Trial) -> float:
        """Its score. Raises TrialPruned; TrialFailed, or the failure itself where it is one too
        many; UserError where the settings are at fault."""
        try:
            return self._scored(trial)
        except UpdateFinishedTrialError:
            self.taken.append(trial.number)
            raise

    def _scored(self, trial: Trial) -> float:
        values = suggested(trial, self.space)
        trial.set_user_attr(VALUES, values)
        try:
            run_id = self._execute_when_free(trial, values)
        except StopTraining as stopped:
            self.failures.clear()
            raise TrialPruned from stopped
        except INTERRUPTS:
            run_again(trial.study, _frozen(trial))
            raise
        except UpdateFinishedTrialError:
            raise
        except Diverged as error:  # its values are at fault and no others: it counts, as the least of all
            self.failures.clear()
            trial.set_user_attr(ERROR, str(error)[:_LONGEST_ERROR])
            raise TrialPruned from error
        except Exception as error:
            self._failed(trial, error)
            raise TrialFailed from error
        self.failures.clear()
        trial.set_user_attr(RUN, run_id)
        return runs.scores(run_id)[BEST_ACCURACY]

    def _failed(self, trial: Trial, error: Exception) -> None:
        """Notes it. Raises the error itself where the next trial would fail too."""
        trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}"[:_LONGEST_ERROR])
        self.failures.append(error)
        if isinstance(error, UserError) or len(self.failures) >= _MOST_FAILURES:
            raise error

    def _execute_when_free(self, trial: Trial, values: Mapping[str, Any]) -> str:
        """Waits where another process does the same work: a stalled worker that had the trial before, or one
        whose trial of `finetune` has a device's settings in common. What that one finishes is taken from
        there."""
        while True:
            try:
                return self._execute(trial, values)
            except Busy as busy:
                print(f"trial {first_number(_frozen(trial))} waits: {busy}", flush=True)
                busy.wait()

    def _execute(self, trial: Trial, values: Mapping[str, Any]) -> str:
        """The id of the nested run. A trial whose first run was interrupted on this machine goes on in it."""
        first = first_number(_frozen(trial))
        tags = {TRIAL: str(first), _STUDY: self.study, MLFLOW_PARENT_RUN_ID: self.parent}
        stage = _as_trial(self.stage, tags, begun=lambda run_id: trial.set_user_attr(RUN, run_id))
        return execute(
            replace(stage, reads=lambda config: f"trial {first} of study {self.study} of run {self.parent}"),
            with_values(self.config, values),
            name=f"{self.stage.name} {words(values)}",
            reuse=True,  # a worker may be lost between the end of the run and that of the trial
            watch=self._watch(trial) if self.watched_epochs else None,
            shared=self.shared,
        )

    def _watch(self, trial: Trial) -> Watch:
        """Reports the best validation so far, as the checkpoint is; ends the training where it lags."""
        before = _frozen(trial).intermediate_values  # of a try that was lost
        best = max(before.values(), default=0.0)

        def told(epoch: int, score: float) -> None:
            nonlocal best
            best = max(best, score)
            if epoch not in before:
                trial.report(best, epoch)
            if epoch < self.watched_epochs and trial.should_prune():
                raise _Pruned(f"trial {trial.number} falls behind after {epoch} epochs")

        return told


def _frozen(trial: Trial) -> FrozenTrial:
    """The trial as the storage has it."""
    return next(one for one in trial.study.get_trials(deepcopy=False) if one.number == trial.number)


def _tag_outcome(run_id: str, state: str) -> None:
    """Unless another process has the run."""
    with suppress(LeaseLost):
        patiently(partial(_write_outcome, run_id, state), what=f"a trial that is {state}")


def _write_outcome(run_id: str, state: str) -> None:
    """Raises LeaseLost."""
    lease.of(run_id).check()
    mlflow.MlflowClient().set_tag(run_id, _STATE, state)


def _as_trial(stage: Stage[Any], tags: Mapping[str, str], *, begun: Callable[[str], None]) -> Stage[Any]:
    """The stage, whose run says which trial it is and what became of it; without a score it fails."""

    def trial(config: Any, run: StageRun) -> Result:
        begun(run.run_id)
        mlflow.set_tags({**tags, _STATE: "running"})
        try:
            result = stage.run(config, run)
            if not math.isfinite(score := result.metrics.get(BEST_ACCURACY, math.nan)):
                raise ArithmeticError(f"{BEST_ACCURACY} is {score}")
        except INTERRUPTS as interrupt:
            last_words(interrupt, partial(_write_outcome, run.run_id, "failed"))
            raise
        except BaseException as error:
            _tag_outcome(run.run_id, "pruned" if isinstance(error, (StopTraining, Diverged)) else "failed")
            raise
        return replace(result, tags={**result.tags, _STATE: "complete"})

    return replace(stage, run=trial)
