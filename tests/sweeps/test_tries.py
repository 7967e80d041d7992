"""Trials whose process is lost: which tries there are of them, and which count."""

import optuna
import pytest
from optuna.trial import TrialState

from adaptf.sweeps.tries import MOST_RETRIES, ended, first_number, last_tries, ranked, run_again, tries


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    return optuna.create_study(direction="maximize")


def lose(study: optuna.Study, trial: optuna.Trial) -> None:
    """As `fail_stale_trials` does where heartbeats stay away."""
    study.tell(trial, state=TrialState.FAIL)
    run_again(study, study.trials[trial.number])


def test_a_lost_trial_is_run_again_with_its_values_and_what_it_reported(study: optuna.Study) -> None:
    study.tell(study.ask(), 0.3)
    lost = study.ask()
    value = lost.suggest_float("x", 0, 1)
    lost.report(0.2, 1)
    lose(study, lost)
    again = study.ask()
    assert again.suggest_float("x", 0, 1) == value
    assert study.trials[again.number].intermediate_values == {1: 0.2}
    study.tell(again, 0.5)
    first, second = last_tries(study)
    assert (first_number(first), tries(first)) == (0, 1)
    assert (first_number(second), tries(second), second.value) == (1, 2, 0.5)
    assert ended(study) == 2
    assert [first_number(trial) for trial in ranked(study)] == [1, 0]


def test_a_trial_whose_process_is_lost_again_and_again_is_given_up(study: optuna.Study) -> None:
    for _ in range(MOST_RETRIES + 1):
        lose(study, study.ask())
    (trial,) = last_tries(study)
    assert (trial.state, tries(trial), ended(study)) == (TrialState.FAIL, MOST_RETRIES + 1, 0)
