"""Folds: the clips that are not for testing in several parts of whole places, each of which validates
once."""

import warnings

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from adaptf.data.clips import TEST, TRAIN, VALIDATION
from adaptf.data.errors import DataError, raise_problems


def with_fold(table: pd.DataFrame, *, fold: int, folds: int, by: str, seed: int) -> pd.DataFrame:
    """A copy in which the clips of one of the folds, from 1, are for validation and those of all others for
    training.

    Raises DataError where there are too few places.
    """
    dealt = deal(table[table["split"] != TEST], folds=folds, by=by, seed=seed)
    split = pd.Series(np.where(dealt == fold, VALIDATION, TRAIN), index=dealt.index)
    return table.assign(split=split.reindex(table.index, fill_value=TEST))


def deal(clips: pd.DataFrame, *, folds: int, by: str, seed: int) -> pd.Series:
    """The fold of each clip, from 1: that of its `location` or `city`, with about the same share of each
    scene by a device in each of them. It depends on the seed and the names, not on the order of rows. Raises
    DataError where there are too few places."""
    _check_places(clips, by, folds)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    strata, places = clips["scene"] + "\0" + clips["device"], clips[by]
    fold = pd.Series(0, index=clips.index)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        try:
            parts = list(splitter.split(clips, strata.to_numpy(str), places.to_numpy(str)))
        except ValueError as error:
            raise DataError(f"too few clips for {folds} folds: {error}") from error
    for number, (_, chosen) in enumerate(parts, start=1):
        fold.iloc[chosen] = number
    return fold


def _check_places(clips: pd.DataFrame, by: str, folds: int) -> None:
    """Raises DataError for clips of which no folds can be dealt."""
    problems = [f"{name}: its {by} is not known" for name in clips.loc[clips[by] == "", "filename"]]
    if (there := clips[by].nunique()) < folds:
        problems.append(f"there are {there} places, fewer than folds")
    places = clips.groupby("scene")[by].nunique()
    problems += [f"scene {scene} has one place alone" for scene in places.index[places < 2]]
    raise_problems(problems, of=f"{folds} folds by {by}, each judged at places from which it has no clips")
