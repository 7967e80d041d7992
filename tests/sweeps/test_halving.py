"""Which trials of a sweep are ended early."""

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from adaptf.errors import UserError
from adaptf.mlproject.train import TrainConfig, train
from adaptf.pipeline.config import OptimConfig
from adaptf.sweeps.halving import Halving, best_until, falls_behind, halving_of
from adaptf.sweeps.places import Place
from adaptf.sweeps.study import SearchConfig, Worker
from adaptf.sweeps.trial import Pruned, Trials


def reported(number: int, scores: dict[int, float]) -> Place:
    trial: FrozenTrial = optuna.trial.create_trial(state=TrialState.RUNNING, intermediate_values=scores)
    return Place(number, [trial])


@pytest.mark.parametrize(
    "score, others, behind",
    [(0.1, [0.5], False), (0.1, [0.5, 0.6], True), (0.6, [0.5, 0.6], False), (0.55, [0.1, 0.2, 0.3, 0.5, 0.6], False)],
)
def test_one_in_three_goes_on_and_fewer_than_three_decide_nothing(score: float, others: list[float], behind: bool) -> None:
    assert falls_behind(score, others, 3) == behind


def test_halving_looks_at_a_trial_once_at_each_of_its_epochs() -> None:
    halving = Halving(min_epochs=2, factor=3, max_epochs=18)
    others = [reported(number, {1: 0.1, 2: 0.5, 6: 0.8, 18: 0.9}) for number in (0, 1)]
    places = [*others, reported(2, {})]
    assert not halving.ends(2, 1, 0.05, {}, places)  # before the first look
    assert halving.ends(2, 2, 0.4, {1: 0.1}, places)
    assert not halving.ends(2, 2, 0.4, {1: 0.5}, places)  # its best checkpoint is as good as theirs
    assert halving.ends(2, 3, 0.4, {1: 0.1}, places)  # validated every second epoch
    assert not halving.ends(2, 3, 0.4, {2: 0.6}, places)  # between two looks
    better = [reported(number, {2: 0.9}) for number in (0, 1)]
    assert not halving.ends(2, 3, 0.4, {2: 0.6}, [*better, reported(2, {})])  # nor by those that came there later
    assert halving.ends(2, 6, 0.7, {2: 0.6}, places)
    assert not halving.ends(2, 6, 0.8, {2: 0.6}, places)
    assert not halving.ends(2, 18, 0.1, {2: 0.6, 6: 0.8}, places)  # it is complete


def test_a_trial_is_compared_with_the_best_that_others_had_until_then() -> None:
    assert best_until(2, {1: 0.6, 2: 0.5, 3: 0.9}) == 0.6
    assert best_until(2, {1: 0.6, 3: 0.9, 4: 1.0}) == 0.9
    assert best_until(4, {1: 0.6, 3: 0.9}) is None


def of_epochs(epochs: int) -> TrainConfig:
    return TrainConfig(optim=OptimConfig(max_epochs=epochs))


def test_epochs_that_leave_no_look_are_refused_with_the_most_that_do() -> None:
    assert halving_of(SearchConfig(min_epochs=3), of_epochs(9)).looks
    with pytest.raises(UserError, match=r"sweep.min_epochs should be 3 or less, got 4"):
        halving_of(SearchConfig(min_epochs=4), of_epochs(9))
    with pytest.raises(UserError, match=r"sweep.min_epochs can't be had, got 1"):
        halving_of(SearchConfig(min_epochs=1), of_epochs(2))
    assert not halving_of(SearchConfig(), of_epochs(2)).looks
    by_two = halving_of(SearchConfig(min_epochs=2, reduction_factor=2), of_epochs(9))
    assert by_two.looks_at(9, []) == [2, 4]


def test_a_trial_that_was_killed_at_a_look_is_judged_when_it_is_resumed() -> None:
    study = optuna.create_study(direction="maximize")
    for scores in ({1: 0.5, 2: 0.6}, {1: 0.5, 2: 0.7}):
        study.add_trial(optuna.trial.create_trial(state=TrialState.COMPLETE, value=0.7, intermediate_values=scores))
    study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING, intermediate_values={1: 0.1, 2: 0.2}))
    halving = Halving(min_epochs=2, factor=3, max_epochs=6)
    worker = Worker("me", locks=False)
    trials = Trials(study, train, TrainConfig(), {}, 3, halving, scores=(), parent="", worker=worker)
    told = trials.watch(study.ask(), 2)
    told(1, 0.1)
    with pytest.raises(Pruned):
        told(2, 0.2)
