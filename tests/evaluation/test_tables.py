import math

import numpy as np
import pandas as pd
import pytest

from adaptf.data.errors import DataError
from adaptf.evaluation.bootstrap import paired_bootstrap
from adaptf.evaluation.intervals import mean_interval
from adaptf.evaluation.scores import log_loss, macro_accuracy, macro_accuracy_per_device, prediction_table
from adaptf.evaluation.tables import (
    accuracy_table,
    as_markdown,
    as_text,
    device_table,
    difference_table,
    scene_table,
)

SCENES = ("bus", "park", "tram")
CLIPS = 180


def predict(seed, gain=0.5):
    """The logits of the true scenes are raised by `gain`."""
    scene = np.arange(CLIPS) % 3
    logits = np.random.default_rng(seed).standard_normal((CLIPS, 3)).astype(np.float32)
    logits[np.arange(CLIPS), scene] += gain
    clips = {
        "filename": [f"{row}.wav" for row in range(CLIPS)],
        "scene": np.array(SCENES)[scene],
        "device": np.array(["a", "b", "s4", "b"])[np.arange(CLIPS) % 4],
        "location": [f"paris-{row % 30}" for row in range(CLIPS)],
    }
    return prediction_table(pd.DataFrame(clips), logits, SCENES)


@pytest.fixture(scope="module")
def settings():
    """Four settings of three runs; the first two hardly differ."""
    gains = {"trained": 0.5, "distilled": 0.5, "per device": 2.0, "per device INT8": 2.2}
    return {
        name: [predict(10 * place + seed, gain) for seed in range(3)]
        for place, (name, gain) in enumerate(gains.items())
    }


@pytest.fixture(scope="module")
def differences(settings):
    return difference_table(settings, draws=500)


def test_scene_table_has_a_row_per_scene_and_a_column_per_setting(settings):
    table = scene_table(settings, SCENES)
    assert list(table.index) == [*SCENES, "macro average", "log loss"]
    assert list(table.columns) == list(settings)


def test_scene_table_holds_means_over_runs(settings):
    runs = settings["distilled"]
    column = scene_table({"distilled": runs}, SCENES)["distilled"]
    assert column["macro average"] == pytest.approx(100 * np.mean([macro_accuracy(run) for run in runs]))
    assert column["log loss"] == pytest.approx(np.mean([log_loss(run, SCENES) for run in runs]))
    assert column["macro average"] == pytest.approx(column[list(SCENES)].mean())


def test_a_scene_without_clips_has_no_accuracy(settings):
    runs = [run.assign(metro=-1.0) for run in settings["trained"]]
    assert math.isnan(scene_table({"trained": runs}, (*SCENES, "metro"))["trained"]["metro"])


def test_device_table_tells_known_from_unknown_devices(settings):
    column = device_table(settings, known_devices=["a", "b"])["trained"]
    assert list(column.index) == ["a", "b", "s4", "known devices", "unknown devices", "macro average"]
    assert column["known devices"] == pytest.approx((column["a"] + column["b"]) / 2)
    assert column["unknown devices"] == pytest.approx(column["s4"])


def test_device_table_holds_means_over_runs(settings):
    column = device_table(settings, known_devices=["a", "b"])["trained"]
    assert column["b"] == pytest.approx(
        100 * np.mean([macro_accuracy_per_device(run)["b"] for run in settings["trained"]])
    )


def test_device_table_leaves_out_the_mean_of_no_devices(settings):
    assert "unknown devices" not in device_table(settings, known_devices=["a", "b", "s4"]).index


def test_accuracy_table_has_the_interval_over_runs(settings):
    table = accuracy_table(settings)
    assert list(table.columns) == ["macro average", "std", "95 % low", "95 % high", "runs"]
    assert list(table.index) == list(settings)
    found = mean_interval([100 * macro_accuracy(run) for run in settings["distilled"]])
    assert tuple(table.loc["distilled"]) == pytest.approx((found.mean, found.std, found.low, found.high, 3))


def test_accuracy_of_one_run_is_shown_without_an_interval(settings):
    run = settings["trained"][0]
    text = as_markdown(accuracy_table({"trained": [run], "distilled": settings["distilled"]}))
    assert text.splitlines()[2] == f"| trained | {100 * macro_accuracy(run):.1f} | - | - | - | 1 |"


def test_difference_table_begins_with_the_pairs_that_follow_each_other(differences):
    assert list(differences.columns) == ["difference", "low", "high", "runs low", "runs high", "stands"]
    assert list(differences.index) == [
        "distilled - trained",
        "per device - distilled",
        "per device INT8 - per device",
        "per device - trained",
        "per device INT8 - trained",
        "per device INT8 - distilled",
    ]


def test_difference_table_is_in_points_of_the_second_beyond_the_first(settings, differences):
    found = paired_bootstrap(settings["distilled"], settings["per device"], draws=500)
    row = differences.loc["per device - distilled"]
    expected = [100 * value for value in (found.mean, found.low, found.high, found.runs_low, found.runs_high)]
    assert list(row[:-1]) == pytest.approx(expected)
    assert row["difference"] > 20
    assert list(differences["stands"]) == ["no", "yes", "no", "yes", "yes", "yes"]


def test_one_setting_differs_from_none(settings):
    table = difference_table({"trained": settings["trained"]}, draws=500)
    assert table.empty
    assert (
        as_markdown(table).splitlines()[0]
        == "| settings | difference | low | high | runs low | runs high | stands |"
    )


def test_settings_that_cannot_be_compared_are_named(settings):
    with pytest.raises(
        DataError, match=r"'trained' \(first\) and 'distilled' \(second\) .* the first has 1, the second 3"
    ):
        difference_table({"trained": settings["trained"][:1], "distilled": settings["distilled"]}, draws=500)


def test_tables_round_percentages_to_one_digit_and_the_log_loss_to_two():
    table = pd.DataFrame({"x": {"bus": 12.345, "log loss": 1.2345}})
    assert "12.3" in as_text(table)
    assert "1.23" in as_text(table)
    assert as_markdown(table).splitlines()[-1] == "| log loss | 1.23 |"


def test_tables_show_differences_with_two_digits_counts_without_and_what_is_absent_as_a_dash():
    table = pd.DataFrame(
        {"difference": [-0.004, 1.234], "runs low": [math.nan, 0.5], "runs": [1, 3]}, index=["x", "y"]
    )
    assert as_markdown(table).splitlines()[2:] == ["| x | 0.00 | - | 1 |", "| y | 1.23 | 0.50 | 3 |"]
    assert [line.split() for line in as_text(table).splitlines()[1:]] == [
        ["x", "0.00", "-", "1"],
        ["y", "1.23", "0.50", "3"],
    ]
