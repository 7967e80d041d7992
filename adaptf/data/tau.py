"""TAU Urban Acoustic Scenes 2022 Mobile: the folder as published."""

from pathlib import Path

import pandas as pd

from adaptf.data.errors import raise_problems
from adaptf.data.tables import read_strings

META = "meta.csv"
TRAIN_LIST = "evaluation_setup/fold1_train.csv"
TEST_LIST = "evaluation_setup/fold1_evaluate.csv"


def is_tau(root: Path) -> bool:
    """Whether a folder holds the data set's table."""
    return (root / META).is_file()


def read_tau(root: Path) -> pd.DataFrame:
    """The clips of the training and test lists, with device and location from meta.csv; clips in neither are left out."""
    meta = read_table(root / META, ["filename", "scene_label", "identifier", "source_label"])
    meta = meta.rename(columns={"scene_label": "scene", "identifier": "location", "source_label": "device"})
    split = {name: "test" for name in read_table(root / TEST_LIST, ["filename"])["filename"]}
    train = read_table(root / TRAIN_LIST, ["filename"])["filename"]
    both = [f"{name} is in {TRAIN_LIST} and in {TEST_LIST}" for name in train if name in split]
    split |= {name: "train" for name in train}
    known = set(meta["filename"])
    absent = [f"{name} is in a split list but not in {META}" for name in split if name not in known]
    raise_problems(both + absent, of=str(root))
    meta["split"] = meta["filename"].map(split)
    return meta.dropna(subset=["split"]).reset_index(drop=True)


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """A tab separated table of strings. Raises DataError where it is absent, unreadable or lacks a column."""
    return read_strings(path, columns, separator="\t", separator_name="tab")
