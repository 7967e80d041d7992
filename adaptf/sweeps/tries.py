"""The trials of a study, where one whose process is lost is run again by Optuna as a further try."""

from copy import deepcopy

import mlflow
import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

MOST_RETRIES = 2
"""A trial whose process was lost more often is given up."""
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States that count for the budget."""
RUN, VALUES, ERROR = "run", "values", "error"
"""Attributes of a trial: its run, the values as they went into the settings, why it failed."""


def run_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Puts a trial whose process is gone in line again, with the same values;
    after some times it has failed."""
    again = RetryHeartbeatStaleTrialCallback(MOST_RETRIES, inherit_intermediate_values=True)
    again(study, deepcopy(trial))  # it writes into the trial's attributes
    if len(_former_tries(trial)) >= MOST_RETRIES and (run_id := trial.user_attrs.get(RUN)):
        mlflow.MlflowClient().set_terminated(run_id, "FAILED")  # nobody else says that it has ended


def _former_tries(trial: FrozenTrial) -> list[int]:
    """Numbers of the tries whose processes were lost before this one."""
    return RetryHeartbeatStaleTrialCallback.retry_history(trial)


def first_number(trial: FrozenTrial) -> int:
    """Of the first try, by which a trial and its run are called."""
    return next(iter(_former_tries(trial)), trial.number)


def tries(trial: FrozenTrial) -> int:
    """How often it was begun."""
    return len(_former_tries(trial)) + 1


def last_tries(study: optuna.Study) -> list[FrozenTrial]:
    """In the order of their numbers, each with its last try only."""
    found = study.get_trials(deepcopy=False)
    lost = {former for trial in found for former in _former_tries(trial)}
    return sorted((trial for trial in found if trial.number not in lost), key=first_number)


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials, the most accurate first."""
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return sorted(complete, key=lambda trial: trial.values, reverse=True)


def ended(study: optuna.Study) -> int:
    """How much of the budget is used."""
    return len(study.get_trials(deepcopy=False, states=_ENDED))
