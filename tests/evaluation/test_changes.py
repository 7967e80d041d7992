"""Clips that change from one model to another, and differences per scene and device."""

import math

import numpy as np
import pandas as pd
import pytest

from adaptf.evaluation.changes import GAINED, LOST, STILL_WRONG, changed_clips, group_table, holm
from adaptf.evaluation.scores import prediction_table

SCENES = ["airport", "bus", "park"]
NAMES = ("old", "new")


def clips(places: int = 12, devices: tuple[str, ...] = ("a", "b")) -> pd.DataFrame:
    """A clip per scene, place and device."""
    rows = [
        {
            "filename": f"{scene}-{place}-{device}.wav",
            "scene": scene,
            "device": device,
            "location": f"{scene}-{place}",
        }
        for scene in SCENES
        for place in range(places)
        for device in devices
    ]
    return pd.DataFrame(rows)


def predicted(table: pd.DataFrame, scenes: list[str], sure: float = 2.0) -> pd.DataFrame:
    """Predictions of these scenes, with one logit above the others by `sure`."""
    logits = np.zeros((len(table), len(SCENES)), dtype=np.float32)
    logits[np.arange(len(table)), [SCENES.index(scene) for scene in scenes]] = sure
    return prediction_table(table, logits, SCENES)


def right(table: pd.DataFrame, sure: float = 2.0) -> pd.DataFrame:
    return predicted(table, list(table["scene"]), sure)


def wrong(table: pd.DataFrame, where: pd.Series, scene: str = "park", sure: float = 2.0) -> pd.DataFrame:
    """Right but for the clips of the mask, which are taken for one scene."""
    return predicted(table, list(table["scene"].mask(where, scene)), sure)


def test_clips_that_change_are_told_with_both_predictions_and_confidences():
    table = clips(places=2, devices=("a",))
    old = predicted(table, ["airport", "bus", "bus", "bus", "airport", "park"])
    new = predicted(table, ["airport", "airport", "airport", "bus", "bus", "park"])
    changes = changed_clips([old], [new], NAMES, SCENES).set_index("filename")
    assert dict(changes["change"]) == {
        "bus-0-a.wav": LOST, "airport-1-a.wav": GAINED, "park-0-a.wav": STILL_WRONG
    }  # fmt: skip
    lost = changes.loc["bus-0-a.wav"]
    assert (lost["scene"], lost["device"], lost["location"], lost["old"], lost["new"]) == (
        "bus",
        "a",
        "bus-0",
        "bus",
        "airport",
    )
    assert lost["confidence of old"] == pytest.approx(100 * math.e**2 / (math.e**2 + 2))


def test_the_surest_mistake_stands_first():
    table = clips(places=3, devices=("a",))
    sure = np.arange(1, len(table) + 1)
    new = wrong(table, table["scene"] == "bus")
    new[SCENES] = new[SCENES].to_numpy() * sure[:, None]
    changes = changed_clips([right(table)], [new], NAMES, SCENES)
    assert list(changes["filename"]) == ["bus-2-a.wav", "bus-1-a.wav", "bus-0-a.wav"]


def test_clips_are_matched_by_name_whatever_their_order():
    table = clips()
    new = wrong(table, table["device"] == "b")
    shuffled = new.sample(frac=1, random_state=0)
    expected = changed_clips([right(table)], [new], NAMES, SCENES)
    pd.testing.assert_frame_equal(changed_clips([right(table)], [shuffled], NAMES, SCENES), expected)


def test_of_several_pairs_of_runs_each_change_names_its_pair():
    table = clips(places=2)
    changed = wrong(table, table["scene"] == "bus")
    changes = changed_clips([right(table), right(table)], [right(table), changed], NAMES, SCENES)
    assert len(changes) == 4 and set(changes["pair"]) == {2}


def test_gained_less_lost_is_the_difference_of_each_row():
    table = clips()
    old, new = (
        wrong(table, table["location"].isin(["bus-1", "airport-3"])),
        wrong(table, table["location"] == "bus-2"),
    )
    changes = changed_clips([old], [new], NAMES, SCENES)
    found = group_table([old], [new], NAMES, changes, by="scene", draws=50)
    assert list(found.index) == SCENES and list(found["clips"]) == [24, 24, 24]
    assert found["difference"].to_numpy() == pytest.approx(
        100 * (found[GAINED] - found[LOST]) / found["clips"]
    )
    assert found["difference"].to_numpy() == pytest.approx(found["new"] - found["old"])


def test_a_device_that_got_worse_everywhere_stands_and_the_other_does_not():
    table = clips()
    new = wrong(table, (table["device"] == "b") & (table["scene"] != "park"))
    changes = changed_clips([right(table)], [new], NAMES, SCENES)
    found = group_table([right(table)], [new], NAMES, changes, by="device", draws=500)
    assert dict(found["stands"]) == {"a": "no", "b": "yes"}
    assert found.loc["b", "difference"] == pytest.approx(-100 * 2 / 3) and found.loc["a", "p (Holm)"] == 1


def test_a_few_places_that_agree_are_no_proof():
    table = clips(places=3)
    new = wrong(table, table["scene"] == "bus")
    changes = changed_clips([right(table)], [new], NAMES, SCENES)
    found = group_table([right(table)], [new], NAMES, changes, by="scene", draws=500)
    assert found.loc["bus", "difference"] == -100 and found.loc["bus", "stands"] == "no"
    assert found.loc["bus", "p (Holm)"] == pytest.approx(3 * 2 ** (1 - 3))


def test_where_each_scene_has_one_place_nothing_can_be_told():
    table = clips(places=1)
    changes = changed_clips([right(table)], [wrong(table, table["scene"] == "bus")], NAMES, SCENES)
    found = group_table(
        [right(table)], [wrong(table, table["scene"] == "bus")], NAMES, changes, by="scene", draws=50
    )
    assert set(found["stands"]) == {"-"}


def test_holms_correction_is_that_of_a_worked_example():
    # Four values sorted are multiplied by 4, 3, 2, 1, and none may be below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1] and holm([]) == []


def test_holms_correction_counts_known_values_only():
    corrected = holm([math.nan, 0.02, 0.04])
    assert math.isnan(corrected[0]) and corrected[1:] == pytest.approx([0.04, 0.04])


@pytest.mark.slow
def test_without_a_difference_one_row_in_all_seldom_stands():
    """Of 40 comparisons of two models that are alike, with 5 devices each, few have a row that stands."""
    devices = tuple("abcde")
    table, generator, standing = clips(places=8, devices=devices), np.random.default_rng(0), 0
    for _ in range(40):
        old, new = (wrong(table, pd.Series(generator.random(len(table)) < 0.3)) for _ in range(2))
        changes = changed_clips([old], [new], NAMES, SCENES)
        found = group_table([old], [new], NAMES, changes, by="device", draws=200)
        standing += "yes" in set(found["stands"])
    assert standing <= 4
