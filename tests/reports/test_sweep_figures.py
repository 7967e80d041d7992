"""Pictures of a sweep: which there are, and which cannot be made."""

from pathlib import Path

import matplotlib
import optuna
import pytest
from optuna.trial import FrozenTrial, Trial

from adaptf.reports.sweep_figures import sweep_figures

LABELS = {"loss.temperature": "T", "loss.reduction": "reduction", "augment.dir_p": "DIR"}
OF_VALUES = {"history", "importances", "slices", "contours", "parallel_coordinates"}


def trials(*, objectives: int, count: int) -> list[FrozenTrial]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    study = optuna.create_study(directions=["maximize"] * objectives, sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: Trial) -> tuple[float, ...]:
        score = trial.suggest_float("loss.temperature", 1, 8, log=True) / 10
        score += trial.suggest_float("augment.dir_p", 0, 0.8, step=0.1)
        trial.suggest_categorical("loss.reduction", ["elements", "clips"])
        if objectives == 1:
            for epoch in range(1, 4):
                trial.report(score * epoch / 3, epoch)
            if trial.number == 4:
                raise optuna.TrialPruned
        return (score, 1 - score)[:objectives]

    study.optimize(objective, n_trials=count)
    optuna.logging.set_verbosity(verbosity)
    return study.trials


@pytest.mark.parametrize("objectives, more", [(["accuracy"], "epochs"), (["accuracy", "worst device"], "pareto_front")])
def test_each_picture_is_made(objectives: list[str], more: str, tmp_path: Path) -> None:
    found = trials(objectives=len(objectives), count=7)
    style = dict(matplotlib.rcParams)
    drawn, impossible = sweep_figures(found, tmp_path, objectives=objectives, labels=LABELS)
    assert {path.stem for path in drawn} == OF_VALUES | {more}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert impossible == {}
    assert dict(matplotlib.rcParams) == style


def test_too_few_trials_are_said_instead_of_drawn(tmp_path: Path) -> None:
    drawn, impossible = sweep_figures(trials(objectives=1, count=2), tmp_path, objectives=["accuracy"], labels=LABELS)
    assert drawn == []
    assert set(impossible) == OF_VALUES | {"epochs"}
    assert set(impossible.values()) == {"it needs 3 complete trials, there are 2"}


@pytest.mark.parametrize("fields", [1, 2])
def test_few_fields_can_be_drawn_too(fields: int, tmp_path: Path) -> None:
    names = ["x", "y"][:fields]
    distributions = {name: optuna.distributions.FloatDistribution(0, 9) for name in names}
    found = [
        optuna.trial.create_trial(value=x / 10, params=dict(zip(names, (x, y), strict=False)), distributions=distributions)
        for x, y in ((1.0, 7.0), (4.0, 1.0), (7.0, 3.0))
    ]
    drawn, impossible = sweep_figures(found, tmp_path, objectives=["accuracy"], labels={name: name for name in names})
    assert {path.stem for path in drawn} == OF_VALUES - ({"contours"} if fields == 1 else set())
    assert impossible == {"epochs": "no trial was watched while it trained"}
