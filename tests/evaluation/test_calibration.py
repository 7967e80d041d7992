"""Calibration and rejection, against values calculated by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from adaptf.evaluation.calibration import (
    accuracy_at,
    best_temperature,
    calibration_error,
    calibration_table,
    confidence_of,
    rejection_curve,
    rejection_table,
    reliability_table,
    reliability_tables,
)
from adaptf.evaluation.scores import prediction_table, probabilities

SCENES = ("bus", "park")
CONFIDENCE = np.array([0.55, 0.65, 0.95, 0.95, 0.85])
CORRECT = np.array([True, False, True, True, False])


def predictions(probability_of_bus: list[float], scenes: list[str]) -> pd.DataFrame:
    """Clips with that probability."""
    bus = np.array(probability_of_bus)
    clips = pd.DataFrame(
        {
            "filename": [f"{row}.wav" for row in range(len(bus))],
            "scene": scenes,
            "device": "a",
            "location": "x",
        }
    )
    return prediction_table(clips, np.log(np.stack([bus, 1 - bus], axis=1)).astype(np.float32), SCENES)


def test_confidence_is_the_probability_of_what_was_predicted() -> None:
    run = predictions([0.9, 0.2, 0.6], ["bus", "park", "park"])
    assert probabilities(run, SCENES)[:, 0] == pytest.approx([0.9, 0.2, 0.6])
    confidence, correct = confidence_of(run, SCENES)
    assert confidence == pytest.approx([0.9, 0.8, 0.6])
    assert list(correct) == [True, True, False]


def test_clips_are_put_into_bins_of_equal_width() -> None:
    table = reliability_table(CONFIDENCE, CORRECT, bins=10)
    used = table[table["clips"] > 0]
    assert list(used.index) == [5, 6, 8, 9]
    assert list(used["clips"]) == [1, 1, 1, 2]
    assert list(used["mean confidence"]) == pytest.approx([0.55, 0.65, 0.85, 0.95])
    assert list(used["accuracy"]) == [1, 0, 0, 1]
    assert table["accuracy"].isna().sum() == 6


def test_a_confidence_on_an_edge_belongs_to_the_bin_below_as_in_guo_et_al() -> None:
    edges = np.linspace(0, 1, 16)
    table = reliability_table(edges[1:], np.ones(15, dtype=bool))
    assert list(table["clips"]) == [1] * 15
    assert list(reliability_table(np.array([0.0]), np.array([True]))["clips"]) == [1] + [0] * 14


def test_the_calibration_error_is_the_mean_gap_weighted_by_clips() -> None:
    by_hand = (1 * 0.45 + 1 * 0.65 + 1 * 0.85 + 2 * 0.05) / 5
    assert calibration_error(reliability_table(CONFIDENCE, CORRECT, bins=10)) == pytest.approx(by_hand)


def test_within_a_bin_confidences_and_answers_even_out() -> None:
    table = reliability_table(
        np.array([0.75, 0.75, 0.75, 0.75]), np.array([True, True, True, False]), bins=10
    )
    assert calibration_error(table) == pytest.approx(0)


def test_rejection_leaves_out_the_least_sure_clips_first() -> None:
    curve = rejection_curve(CONFIDENCE, CORRECT)
    assert list(curve["coverage"]) == pytest.approx([0.4, 0.6, 0.8, 1.0])
    assert list(curve["threshold"]) == [0.95, 0.85, 0.65, 0.55]
    assert list(curve["accuracy"]) == pytest.approx([1, 2 / 3, 1 / 2, 3 / 5])


def test_clips_of_one_confidence_are_answered_together_whatever_their_order() -> None:
    confidence = np.array([0.7, 0.7, 0.7, 0.9])
    for correct in ([True, False, False, True], [False, False, True, True]):
        curve = rejection_curve(confidence, np.array(correct))
        assert list(curve["accuracy"]) == [1, 1 / 2]


def test_accuracy_at_a_share_answers_at_least_so_many() -> None:
    curve = rejection_curve(CONFIDENCE, CORRECT)
    assert accuracy_at(curve, np.array([0.1, 0.4, 0.5, 0.8, 1.0])) == pytest.approx(
        [1, 1, 2 / 3, 1 / 2, 3 / 5]
    )


@pytest.fixture
def settings() -> dict[str, list[pd.DataFrame]]:
    first = predictions([0.9, 0.2, 0.6, 0.7], ["bus", "park", "park", "bus"])
    second = predictions([0.4, 0.2, 0.6, 0.7], ["bus", "park", "park", "bus"])
    return {"one <run>": [first], "two $runs$": [first, second]}


def test_tables_hold_means_over_runs_in_percent(settings: dict[str, list[pd.DataFrame]]) -> None:
    table = calibration_table(settings, SCENES)
    assert list(table.columns) == [
        "accuracy",
        "mean confidence",
        "calibration error",
        "surest 80 %",
        "surest 50 %",
    ]
    assert list(table["accuracy"]) == pytest.approx([75, (75 + 50) / 2])
    assert list(table["mean confidence"]) == pytest.approx([75, (75 + 67.5) / 2])
    assert list(table["surest 50 %"]) == pytest.approx([100, 100])
    curves = rejection_table(settings, SCENES)
    assert list(curves.loc[100.0]) == pytest.approx(list(table["accuracy"]))


def test_reliability_takes_the_clips_of_all_runs_together(settings: dict[str, list[pd.DataFrame]]) -> None:
    table = reliability_tables(settings, SCENES)
    assert table["clips"].groupby(level="setting").sum().to_dict() == {"one <run>": 4, "two $runs$": 8}
    assert not math.isnan(calibration_error(table.loc[["one <run>"]]))


def logits_that_are_right(share: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Of 1000 clips: `height` for one of three scenes, in this share of them the true one, 0 for others."""
    truth = np.zeros(1000, dtype=np.int64)
    chosen = np.where(np.arange(1000) < share * 1000, 0, 1)
    return height * np.eye(3)[chosen], truth


@pytest.mark.parametrize(("share", "height"), [(0.5, 5.0), (0.9, 0.3)], ids=["overconfident", "timid"])
def test_at_the_best_temperature_logits_are_as_sure_as_they_are_right(share: float, height: float) -> None:
    """Worked out by hand: the log loss is lowest where the probability of the chosen scene is the share."""
    logits, truth = logits_that_are_right(share, height)
    wanted = height / math.log(2 * share / (1 - share))
    assert best_temperature(logits, truth) == pytest.approx(wanted, rel=1e-4)
    assert best_temperature(5 * logits, truth) == pytest.approx(5 * wanted, rel=1e-4)


def test_logits_that_are_always_right_have_no_best_temperature() -> None:
    for share, height in ((1, 2.0), (0.1, 2.0)):
        with pytest.raises(ValueError, match="all of the clips are recognised, or no more than by chance"):
            best_temperature(*logits_that_are_right(share, height))
