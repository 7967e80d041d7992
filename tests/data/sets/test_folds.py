"""Folds: which clips validate in which."""

import numpy as np
import pandas as pd
import pytest

from adaptf.data.clips import TEST, TRAIN, VALIDATION
from adaptf.data.errors import DataError
from adaptf.data.sets.folds import deal, with_fold


def with_cities(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(city=table["location"].str.partition("-")[0])


@pytest.mark.parametrize("by", ["location", "city"])
def test_whole_places_are_dealt_so_that_each_fold_has_its_share_of_each_scene(official_clips, by):
    table = with_cities(official_clips("5"))
    fold = deal(table, folds=5, by=by, seed=0)
    assert (fold.groupby(table[by]).nunique() == 1).all()
    assert fold.value_counts(normalize=True).to_numpy() == pytest.approx(0.2, abs=0.03)
    shares = pd.crosstab(table["scene"], fold, normalize="index").to_numpy()
    assert shares == pytest.approx(0.2, abs=0.08)


def test_folds_follow_from_seed_and_names_not_from_the_order_of_rows(official_clips):
    table = official_clips("5").iloc[::5]
    fold = deal(table, folds=3, by="location", seed=1)
    mixed = table.sample(frac=1, random_state=np.random.default_rng(0))
    again = deal(mixed, folds=3, by="location", seed=1)
    pd.testing.assert_series_equal(again.sort_index(), fold.sort_index())
    assert (deal(table, folds=3, by="location", seed=2) != fold).any()


def small(**columns: list[str]) -> pd.DataFrame:
    """Six clips of two scenes at three places each."""
    return pd.DataFrame(
        {
            "filename": [f"{name}.wav" for name in "abcdef"],
            "scene": ["bus"] * 3 + ["park"] * 3,
            "device": ["a"] * 6,
            "location": list("123456"),
            "city": [""] * 6,
            "split": [TRAIN] * 6,
            **columns,
        }
    )


def test_clips_for_testing_stay_aside_and_a_validation_part_is_dealt_too():
    table = small(split=[TRAIN, VALIDATION, TEST] * 2)
    cut = with_fold(table, fold=1, folds=2, by="location", seed=0)
    assert list(cut["split"] == TEST) == [False, False, True] * 2
    assert cut.groupby("scene")["split"].agg(set).tolist() == [{TRAIN, VALIDATION, TEST}] * 2


@pytest.mark.parametrize(
    ("columns", "settings", "told"),
    [
        ({}, {"by": "city"}, "a.wav: its city is not known"),
        ({}, {"folds": 7}, "there are 6 places, fewer than folds"),
        ({"location": list("111456")}, {}, "scene bus has one place alone"),
    ],
)
def test_places_of_which_no_folds_can_be_dealt_are_named(columns, settings, told):
    with pytest.raises(DataError, match=told):
        with_fold(small(**columns), **({"fold": 1, "folds": 2, "by": "location", "seed": 0} | settings))
