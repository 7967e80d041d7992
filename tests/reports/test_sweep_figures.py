"""Pictures of a sweep: which there are, and which cannot be made."""

from pathlib import Path

import matplotlib
import optuna
import pytest
from optuna.trial import Trial

from adaptf.reports.sweep_figures import sweep_figures

pytestmark = pytest.mark.slow

PICTURES = {"history", "importances", "slices", "contours", "epochs"}


def study(*, count: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    found = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: Trial) -> float:
        score = trial.suggest_float("loss.temperature", 1, 8, log=True) / 10
        score += trial.suggest_float("augment.dir_p", 0, 0.8, step=0.1)
        trial.suggest_categorical("loss.reduction", ["elements", "clips"])
        for epoch in range(1, 4):
            trial.report(score * epoch / 3, epoch)
        if trial.number == 4:
            raise optuna.TrialPruned
        return score

    found.optimize(objective, n_trials=count)
    return found


def test_each_picture_is_made(tmp_path: Path) -> None:
    style = dict(matplotlib.rcParams)
    drawn, impossible = sweep_figures(study(count=7), tmp_path, score="accuracy")
    assert {path.stem for path in drawn} == PICTURES
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert impossible == {}
    assert dict(matplotlib.rcParams) == style


def test_too_few_trials_are_said_instead_of_drawn(tmp_path: Path) -> None:
    drawn, impossible = sweep_figures(study(count=2), tmp_path, score="accuracy")
    assert drawn == []
    assert impossible == {"trials": "it needs 3 complete trials, there are 2"}


@pytest.mark.parametrize("fields", [1, 2])
def test_few_fields_can_be_drawn_too(fields: int, tmp_path: Path) -> None:
    names = ["x", "y"][:fields]
    distributions = {name: optuna.distributions.FloatDistribution(0, 9) for name in names}
    found = optuna.create_study(direction="maximize")
    for x, y in ((1.0, 7.0), (4.0, 1.0), (7.0, 3.0)):
        params = dict(zip(names, (x, y), strict=False))
        found.add_trial(optuna.trial.create_trial(value=x / 10, params=params, distributions=distributions))
    drawn, impossible = sweep_figures(found, tmp_path, score="accuracy")
    assert {path.stem for path in drawn} == PICTURES - {"epochs"} - ({"contours"} if fields == 1 else set())
    assert impossible == {"epochs": "no trial was watched while it trained"}
