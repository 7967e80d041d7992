"""The trials of a study: which count, what became of each, and which are lost and run again."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from adaptf.sweeps.study import Worker, is_dead

FIRST_TRY, TRIES = "failed_trial", "retry_history"
"""Attributes of a trial that is run again, by Optuna's convention: the number of the first try, and those of all before."""
WORKER, RUN, VALUES, ERROR, SURPLUS = "worker", "run", "values", "error", "surplus"
"""Attributes that a worker gives its trial: its own name, the trial's run, the values as they went into the settings, why it
failed, and whether it was one too many."""
MOST_TRIES = 3
"""A trial whose process was lost so often is not tried again."""
NAMELESS_SECONDS = 60
"""A trial that runs for so long without a worker's name has lost it before it could begin."""
COMPLETE, PRUNED, FAILED, LOST, RUNNING = "complete", "pruned", "failed", "lost", "running"
"""What became of a place; one that waits for its next try counts as running."""
STATES = {
    TrialState.COMPLETE: COMPLETE,
    TrialState.PRUNED: PRUNED,
    TrialState.RUNNING: RUNNING,
    TrialState.WAITING: RUNNING,
}
"""Of a try that has not failed."""


@dataclass(frozen=True)
class Place:
    """One of the study's trials with all its tries: a trial whose process is lost is run again in its place."""

    number: int
    """Of the first try."""
    tries: Sequence[FrozenTrial]
    """In their order, without those that were too many."""

    @property
    def last(self) -> FrozenTrial:
        """Holds all that is known: a later try starts with what the one before had reported."""
        return self.tries[-1]

    @property
    def counts(self) -> FrozenTrial | None:
        """The try that counts, where one has ended well or may still."""
        return next((one for one in self.tries if one.state != TrialState.FAIL), None)

    @property
    def done(self) -> bool:
        """Whether it takes one of the budget for good."""
        return self.state in (COMPLETE, PRUNED)

    @property
    def complete(self) -> FrozenTrial | None:
        """The try that has its scores, where there is one."""
        return self.counts if self.state == COMPLETE else None

    @property
    def state(self) -> str:
        """In a word."""
        if self.counts:
            return STATES[self.counts.state]
        return LOST if self.lost else FAILED

    @property
    def lost(self) -> bool:
        """Whether its process went away, and nobody has taken its place so far."""
        return self.counts is None and ERROR not in self.last.user_attrs and len(self.tries) < MOST_TRIES

    @property
    def taken(self) -> bool:
        """Whether it takes one of the budget now."""
        return self.counts is not None or self.lost


def places_of(trials: Sequence[FrozenTrial]) -> list[Place]:
    """In the order of their numbers."""
    tries: dict[int, list[FrozenTrial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if SURPLUS not in trial.user_attrs:
            tries.setdefault(place_number(trial), []).append(trial)
    return [Place(number, tries[number]) for number in sorted(tries)]


def place_number(trial: FrozenTrial) -> int:
    """The number of the trial's first try."""
    return int(trial.system_attrs.get(FIRST_TRY, trial.number))


def values_of(trial: FrozenTrial) -> Mapping[str, Any]:
    """As they went into the settings; empty where the trial ended before."""
    values: Mapping[str, Any] = trial.user_attrs.get(VALUES, {})
    return values


def places_in(study: optuna.Study) -> list[Place]:
    """As the storage has them now."""
    return places_of(study.get_trials(deepcopy=False))


def done_in(places: Sequence[Place]) -> int:
    """How much of the budget is used for good."""
    return sum(place.done for place in places)


def is_surplus(trial: FrozenTrial, places: Sequence[Place], budget: int) -> bool:
    """Whether another try has the trial's place, or the budget was taken by those before it.

    Several workers may begin the last trial at the same moment: numbers are given one by one, so exactly one stays.
    """
    number = place_number(trial)
    mine = next((place for place in places if place.number == number), None)
    before = sum(place.taken for place in places if place.number < number)
    return mine is None or mine.counts is None or mine.counts.number != trial.number or before >= budget


def recover_lost(study: optuna.Study, me: Worker) -> None:
    """Ends trials whose process is gone, and puts them in line again with the same values.

    Whoever finds one does this. Where two do at once, or one dies between the two steps, the places still hold.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        if is_gone(trial, study, me):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    for place in places_in(study):
        if place.lost:
            study.add_trial(next_try(place))


def is_gone(trial: FrozenTrial, study: optuna.Study, me: Worker) -> bool:
    """A database tells by heartbeats; a journal's workers hold locks. Either begins a moment after the trial."""
    if WORKER not in trial.user_attrs:
        now = time.monotonic()  # the time that the trial itself tells is that of another machine's clock
        return now - me.nameless.setdefault(trial.number, now) > NAMELESS_SECONDS
    return me.locks and is_dead(study.study_name, trial.user_attrs[WORKER])


def next_try(place: Place) -> FrozenTrial:
    """The same values, and what was reported of them: a training that goes on from its checkpoint reports the rest."""
    lost = place.last
    attributes = {**lost.system_attrs, FIRST_TRY: place.number, TRIES: [one.number for one in place.tries]}
    return optuna.trial.create_trial(
        state=TrialState.WAITING,
        params=lost.params,
        distributions=lost.distributions,
        system_attrs=attributes,
        intermediate_values=lost.intermediate_values,
    )
