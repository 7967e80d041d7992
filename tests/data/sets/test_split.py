import numpy as np
import pandas as pd
import pytest

from adaptf.data.clips import TRAIN, VALIDATION, gaps
from adaptf.data.sets.split import cut_by_location


def clips_at(places):
    """Four clips of each scene and device that were recorded at a place."""
    rows = [
        (f"{place}-{scene}-{device}-{k}.wav", scene, device, place, TRAIN)
        for place, recorded in places.items()
        for scene, device in recorded
        for k in range(4)
    ]
    return pd.DataFrame(rows, columns=["filename", "scene", "device", "location", "split"])


def sides(table):
    """Clips per scene and device (rows) and side."""
    return pd.crosstab([table["scene"], table["device"]], table["split"]).reindex(
        columns=[TRAIN, VALIDATION], fill_value=0
    )


@pytest.mark.parametrize("split, seeds", [("25", 20), ("10", 5), ("5", 5), ("50", 5)])
def test_no_scene_of_a_device_is_empty_on_the_official_lists(official_clips, split, seeds):
    table = official_clips(split)
    for seed in range(seeds):
        cut = cut_by_location(table, share=0.15, to=VALIDATION, seed=seed)
        assert (sides(cut) > 0).all(axis=None)
        assert (cut.groupby("location")["split"].nunique() == 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_each_device_and_scene_gives_about_its_share(official_clips, seed):
    cut = cut_by_location(official_clips("25"), share=0.15, to=VALIDATION, seed=seed)
    taken = cut["split"] == VALIDATION
    assert taken.mean() == pytest.approx(0.15, abs=0.005)
    assert taken.groupby(cut["scene"]).mean().to_numpy() == pytest.approx(0.15, abs=0.03)
    assert taken.groupby(cut["device"]).mean().to_numpy() == pytest.approx(0.15, abs=0.04)


def test_the_cut_follows_from_seed_and_names_not_from_the_order_of_rows(official_clips):
    table = official_clips("5")
    cut = cut_by_location(table, share=0.15, to=VALIDATION, seed=3)
    mixed = cut_by_location(
        table.sample(frac=1, random_state=np.random.default_rng(0)), share=0.15, to=VALIDATION, seed=3
    )
    pd.testing.assert_frame_equal(mixed.sort_index(), cut)
    other = cut_by_location(table, share=0.15, to=VALIDATION, seed=4)
    assert (other["split"] != cut["split"]).any()


@pytest.mark.parametrize("seed", range(10))
def test_a_place_that_a_device_alone_has_of_a_scene_is_trained_on(seed):
    both = [("park", "a"), ("park", "b")]
    places = {
        "lake": both,
        "wood": [("park", "a")],
        "hill": [("park", "a")],
        "line": [("bus", "a")],
        "stop": [("bus", "a")],
    }
    cut = cut_by_location(clips_at(places), share=0.3, to=VALIDATION, seed=seed)
    assert sides(cut).loc[("park", "b"), TRAIN] == 4
    assert (sides(cut).loc[[("park", "a"), ("bus", "a")]] > 0).all(axis=None)


@pytest.mark.parametrize("seed", range(10))
def test_where_one_place_can_not_help_two_change_sides(seed):
    """`b` has two places of the park,
    and the one of them that is cut out has to be that which leaves `a` and `c` theirs."""
    places = {
        "lake": [("park", "a"), ("park", "b"), ("park", "c")],
        "wood": [("park", "b")],
        "hill": [("park", "a")],
    }
    places |= {"line": [("bus", "a"), ("bus", "c")], "stop": [("bus", "a"), ("bus", "c")]}
    found = sides(cut_by_location(clips_at(places), share=0.5, to=VALIDATION, seed=seed))
    assert found.loc[("park", "c"), TRAIN] == 4
    assert (found.drop(("park", "c")) > 0).all(axis=None)


def test_what_can_not_be_had_is_told_by_device_and_scene():
    places = {
        "lake": [("park", "a"), ("park", "b")],
        "wood": [("park", "a")],
        "line": [("bus", "a")],
        "stop": [("bus", "a")],
    }
    cut = cut_by_location(clips_at(places), share=0.4, to=VALIDATION, seed=0)
    assert "There are no validation clips of the devices b (park)" in gaps(cut, ["bus", "park"])
