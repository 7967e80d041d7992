"""TAU Urban Acoustic Scenes 2022 Mobile: the folder as published, with the challenge's training splits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from adaptf.data.clips import TEST, TRAIN
from adaptf.data.errors import DataError, raise_problems
from adaptf.data.sets.published_lists import is_in, is_in_tau, tau_split
from adaptf.data.tables import read_strings

_META = "meta.csv"
_TRAIN_LIST = "evaluation_setup/fold1_train.csv"
_TEST_LIST = "evaluation_setup/fold1_evaluate.csv"
_COLUMNS = ["filename", "scene", "device", "location", "city", "split"]

TrainSplit = Literal["5", "10", "25", "50", "100"]
"""Per cent of the training clips: 5 to 50 by the challenge's lists, 100 by the folder's own."""
_BEYOND_THE_CHALLENGE = ("50", "100")


@dataclass(frozen=True)
class _TauClips:
    """The clips of the training and test lists."""

    table: pd.DataFrame
    """filename, scene, device, location (the city and a number), city, split (train or test);
    the index tells the row."""
    published: bool
    """Whether they are the published recordings, for which the challenge has rules,
    or others in the same layout."""


class _Lists(NamedTuple):
    """File names, and where they are from."""

    train: pd.Series
    train_source: str
    test: pd.Series
    test_source: str


def is_tau(root: Path) -> bool:
    """Whether a folder holds the data set's table."""
    return (root / _META).is_file()


def read_tau(root: Path, *, train_split: TrainSplit) -> _TauClips:
    """The clips of the training and test lists, with device and location from meta.csv;
    clips in neither are left out.

    The published data set is known by its file names. Other recordings in its layout have lists of their own,
    which are used whole, whatever `train_split` says. Raises DataError where a table is broken, a clip is on
    both lists, or meta.csv lacks clips of a list.
    """
    meta = read_strings(root / _META, ["filename", "scene_label", "identifier", "source_label"])
    published = bool(is_in_tau(meta["filename"]).any())
    lists = _published_lists(root, train_split) if published else _own_lists(root)
    both = lists.train[is_in(lists.train, lists.test)]
    raise_problems(
        [f"{name} is in {lists.train_source} and in {lists.test_source}" for name in both], of=str(root)
    )
    table = _clip_table(meta, lists)
    if published:
        _check_download(root, lists, table["filename"])
    else:
        _check_listed(root, lists, table["filename"])
    return _TauClips(table, published)


def check_challenge_rule(train_split: TrainSplit, *, challenge: bool) -> None:
    """Raises DataError where a system for the challenge would be trained on more of the published data set
    than it may."""
    if challenge and train_split in _BEYOND_THE_CHALLENGE:
        raise DataError(
            f"data.train_split={train_split} breaks the rule of DCASE 2025 Task 1, 'models must be trained "
            f"on the 25% subset': training on more of TAU means disqualification. Set data.train_split=25 "
            f"(or smaller), or data.challenge=false for work outside the challenge"
        )


def _published_lists(root: Path, train_split: TrainSplit) -> _Lists:
    test, test_source = tau_split("test"), "the published test list"
    if train_split == "100":
        return _Lists(_listed(root / _TRAIN_LIST), _TRAIN_LIST, test, test_source)
    return _Lists(tau_split(train_split), f"the published {train_split} % training list", test, test_source)


def _own_lists(root: Path) -> _Lists:
    return _Lists(_listed(root / _TRAIN_LIST), _TRAIN_LIST, _listed(root / _TEST_LIST), _TEST_LIST)


def _listed(path: Path) -> pd.Series:
    return read_strings(path, ["filename"])["filename"]


def _check_download(root: Path, lists: _Lists, known: pd.Series) -> None:
    needed = pd.concat([lists.train, lists.test])
    absent = needed[~is_in(needed, known)]
    if len(absent):
        raise DataError(
            f"{len(absent)} of the {len(needed)} clips of {lists.train_source} and {lists.test_source} are "
            f"not in {root / _META}, the first is {absent.iloc[0]}: the download is incomplete. Unpack every "
            f"part of it; to use some of the clips on purpose, name them in a CSV file with the columns "
            "filename, scene, device, location, split"
        )


def _check_listed(root: Path, lists: _Lists, known: pd.Series) -> None:
    named = pd.concat([lists.test, lists.train])
    absent = named[~is_in(named, known)]
    raise_problems([f"{name} is in a split list but not in {_META}" for name in absent], of=str(root))


def _clip_table(meta: pd.DataFrame, lists: _Lists) -> pd.DataFrame:
    for_training, for_testing = is_in(meta["filename"], lists.train), is_in(meta["filename"], lists.test)
    table = meta.rename(columns={"scene_label": "scene", "identifier": "location", "source_label": "device"})
    table["city"] = table["location"].str.split("-", n=1).str[0]
    table["split"] = np.where(for_training, TRAIN, TEST)
    return table.loc[for_training | for_testing, _COLUMNS]
