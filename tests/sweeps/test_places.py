"""Which trials of a study count, whoever runs them and whatever becomes of their processes."""

import platform
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock
import optuna
import pytest
from optuna.trial import TrialState

from adaptf.mlproject.sweep import outcome
from adaptf.sweeps import study as sweep_study
from adaptf.sweeps.places import (
    ERROR,
    MOST_TRIES,
    NAMELESS_SECONDS,
    SURPLUS,
    WORKER,
    done_in,
    is_surplus,
    next_try,
    places_in,
    recover_lost,
)
from adaptf.sweeps.results import states_of, table_of
from adaptf.sweeps.study import Worker

RUNNING, FAIL, COMPLETE, PRUNED = TrialState.RUNNING, TrialState.FAIL, TrialState.COMPLETE, TrialState.PRUNED


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(direction="maximize")


@pytest.fixture
def me() -> Worker:
    return Worker("me", locks=False)


@pytest.fixture
def add(study: optuna.Study) -> Callable[..., int]:
    """Adds a trial in a state and returns its number."""

    def trial(state: TrialState, **attributes: Any) -> int:
        value = 0.5 if state == COMPLETE else None
        study.add_trial(optuna.trial.create_trial(state=state, value=value, user_attrs=attributes))
        return len(study.trials) - 1

    return trial


def surplus(study: optuna.Study, number: int, budget: int) -> bool:
    return is_surplus(study.trials[number], places_in(study), budget)


def test_of_trials_that_began_at_once_those_within_the_budget_stay(study: optuna.Study, add: Callable[..., int]) -> None:
    numbers = [add(COMPLETE), add(RUNNING), add(RUNNING), add(RUNNING)]
    assert [surplus(study, number, 3) for number in numbers[1:]] == [False, False, True]


def test_a_failed_trial_gives_its_share_of_the_budget_back(study: optuna.Study, add: Callable[..., int]) -> None:
    add(COMPLETE), add(FAIL, **{ERROR: "out of memory"}), add(FAIL, **{SURPLUS: True}), add(PRUNED)
    assert done_in(places_in(study)) == 2
    assert not surplus(study, add(RUNNING), 3)


def test_a_lost_trial_keeps_its_share_until_it_is_run_again(study: optuna.Study, me: Worker, add: Callable[..., int]) -> None:
    add(COMPLETE), add(FAIL)
    late = add(RUNNING)
    assert surplus(study, late, 2)
    recover_lost(study, me)
    again = study.ask().number
    assert again == 3 and not surplus(study, again, 2)
    assert [place.number for place in places_in(study)] == [0, 1, 2]


def test_a_lost_trial_is_run_again_with_its_values_and_what_it_reported(study: optuna.Study, me: Worker) -> None:
    trial = study.ask()
    value = trial.suggest_float("x", 0, 1)
    trial.report(0.3, 1)
    study.tell(trial, state=FAIL)
    recover_lost(study, me)
    recover_lost(study, me)
    assert len(study.trials) == 2
    again = study.ask()
    assert again.suggest_float("x", 0, 1) == value
    assert study.trials[1].intermediate_values == {1: 0.3}


def test_of_two_tries_in_one_place_the_first_counts(study: optuna.Study, add: Callable[..., int]) -> None:
    add(FAIL)
    (place,) = places_in(study)
    study.add_trial(next_try(place))
    study.add_trial(next_try(place))  # two workers found the lost trial at the same moment
    one, two = study.ask().number, study.ask().number
    assert [surplus(study, number, 5) for number in (one, two)] == [False, True]
    study.tell(one, 0.5)
    assert done_in(places_in(study)) == 1
    assert surplus(study, two, 5)


def test_a_trial_whose_process_is_lost_again_and_again_is_given_up(
    study: optuna.Study, me: Worker, add: Callable[..., int]
) -> None:
    add(FAIL)
    for _ in range(MOST_TRIES + 1):
        recover_lost(study, me)
        if any(trial.state == TrialState.WAITING for trial in study.trials):
            study.tell(study.ask(), state=FAIL)
    (place,) = places_in(study)
    assert len(place.tries) == MOST_TRIES and not place.taken


def test_a_running_trial_of_another_worker_is_left_alone(study: optuna.Study, me: Worker) -> None:
    study.ask()
    recover_lost(study, me)
    assert [trial.state for trial in study.trials] == [RUNNING]


def test_a_trial_of_a_dead_worker_is_lost_whatever_its_machine_was_called(
    study: optuna.Study, add: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_study, "journal_path", lambda name: tmp_path / f"{name}.journal")
    monkeypatch.setattr(platform, "node", lambda: "another-container")
    living = sweep_study.lock_path(study.study_name, "living")
    living.parent.mkdir()
    add(RUNNING, **{WORKER: "gone", "host": "a-container"}), add(RUNNING, **{WORKER: "living"})
    with filelock.FileLock(living):
        recover_lost(study, Worker("me", locks=True))
    assert [trial.state for trial in study.trials] == [FAIL, RUNNING, TrialState.WAITING]


def test_a_trial_without_a_workers_name_is_lost_after_some_time_by_this_workers_own_clock(
    study: optuna.Study, me: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = optuna.trial.create_trial(state=RUNNING)
    trial.datetime_start = datetime(2000, 1, 1)  # the clock of another machine
    study.add_trial(trial)
    recover_lost(study, me)
    assert [place.state for place in places_in(study)] == ["running"]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + NAMELESS_SECONDS + 1)
    recover_lost(study, me)
    assert [trial.state for trial in study.trials] == [FAIL, TrialState.WAITING]


def test_what_became_of_a_trial_is_said_in_a_word(study: optuna.Study, add: Callable[..., int], me: Worker) -> None:
    add(COMPLETE), add(PRUNED), add(FAIL, **{ERROR: "out of memory"}), add(RUNNING), add(FAIL)
    assert [place.state for place in places_in(study)] == ["complete", "pruned", "failed", "running", "lost"]
    recover_lost(study, me)
    places = places_in(study)
    assert places[-1].state == "running"  # it waits to be tried again
    assert states_of(places) == {"complete": 1, "pruned": 1, "failed": 1, "running": 2}
    assert list(table_of(places, [], ["accuracy"])["state"]) == ["complete", "pruned", "failed", "running", "running"]
    assert outcome(study.trials[4]) == "lost"
