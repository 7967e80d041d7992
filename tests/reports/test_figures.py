"""Figures are written whatever is to be shown; of most, only that."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from adaptf.evaluation.calibration import rejection_table, reliability_tables
from adaptf.evaluation.changes import changed_clips, group_table
from adaptf.evaluation.scores import confusion, prediction_table
from adaptf.evaluation.tables import device_table, difference_table
from adaptf.reports.calibration_figures import rejection_figure, reliability_figure
from adaptf.reports.difference_figures import accuracy_figure, change_figure
from adaptf.reports.figures import confusion_figure, device_confusions_figure, device_figure

pytestmark = pytest.mark.slow

SCENES = ("bus", "park", "tram")


def predict(seed: int, gain: float = 0.5, devices: tuple[str, ...] = ("a", "$s4$")) -> pd.DataFrame:
    """The logits of the true scenes are raised by `gain`."""
    rows = np.arange(60)
    logits = np.random.default_rng(seed).standard_normal((60, 3)).astype(np.float32)
    logits[rows, rows % 3] += gain
    clips = {
        "filename": [f"{row}.wav" for row in rows],
        "scene": np.array(SCENES)[rows % 3],
        "device": np.array(devices)[rows // 3 % len(devices)],
        "location": [f"paris-{row % 12}" for row in rows],
    }
    return prediction_table(pd.DataFrame(clips), logits, SCENES)


@pytest.fixture(scope="module")
def settings() -> dict[str, list[pd.DataFrame]]:
    """Two settings of three runs."""
    return {
        name: [predict(seed, gain) for seed in range(3)] for name, gain in (("a $b$", 0.5), ("c_d<b>", 2.0))
    }


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_settings_are_drawn(settings: dict[str, list[pd.DataFrame]], tmp_path: Path) -> None:
    matrices = {setting: confusion(runs, SCENES) for setting, runs in settings.items()}
    assert is_picture(confusion_figure(matrices, tmp_path / "confusion.png"))
    assert is_picture(device_figure(device_table(settings, ["a"]), tmp_path / "devices.png"))
    assert is_picture(
        accuracy_figure(settings, difference_table(settings, draws=100), tmp_path / "new" / "accuracy.png")
    )


@pytest.mark.parametrize("count", [1, 2])
def test_accuracies_of_single_runs_are_drawn(
    settings: dict[str, list[pd.DataFrame]], count: int, tmp_path: Path
) -> None:
    single = {setting: runs[:1] for setting, runs in list(settings.items())[:count]}
    assert is_picture(accuracy_figure(single, difference_table(single, draws=100), tmp_path / "accuracy.png"))


def test_changes_are_drawn_with_rows_for_scenes_and_devices(tmp_path: Path) -> None:
    runs, names = ([predict(0)], [predict(1)]), ("a $b$", "c_d")
    changes = changed_clips(*runs, names, SCENES)
    tables = [group_table(*runs, names, changes, by=by, draws=50) for by in ("scene", "device")]
    assert change_figure(tables, names, tmp_path / "changes.png").stat().st_size > 10_000


@pytest.mark.parametrize("number", [1, 2, 5])
def test_calibration_is_drawn_for_any_number_of_settings(number: int, tmp_path: Path) -> None:
    shown = {f"{number}$_{place}<b>": [predict(place)] for place in range(number)}
    assert is_picture(reliability_figure(reliability_tables(shown, SCENES), tmp_path / "reliability.png"))
    assert is_picture(rejection_figure(rejection_table(shown, SCENES), tmp_path / "rejection.png"))


@pytest.mark.parametrize("number", [1, 9, 20])
def test_confusions_are_drawn_for_any_number_of_devices(number: int, tmp_path: Path) -> None:
    matrices = {f"${device}<b>": confusion([predict(0)], SCENES) for device in range(number)}
    assert is_picture(device_confusions_figure(matrices, tmp_path / "devices.png"))


def test_names_with_a_dollar_are_no_formula_in_a_figure(tmp_path: Path) -> None:
    table = device_table({"$a_{$": [predict(0, devices=("$x^{$",))]}, ["$x^{$"])
    assert is_picture(device_figure(table, tmp_path / "devices.png"))
