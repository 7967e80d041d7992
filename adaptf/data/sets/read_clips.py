"""From a data set as the user has it to its clip table:
each kind is a file in this folder, and a line in `DATA_SETS`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from adaptf.data.clips import COLUMNS, TEST, VALIDATION, check_clips
from adaptf.data.errors import DataError
from adaptf.data.sets.cochlscene import is_cochlscene, read_cochlscene
from adaptf.data.sets.csv_table import read_csv_table
from adaptf.data.sets.folds import with_fold
from adaptf.data.sets.split import cut_by_file, cut_by_location
from adaptf.data.sets.tau import TrainSplit, check_challenge_rule, is_tau, read_tau


@dataclass(frozen=True)
class _SceneClips:
    """What a data set's tables say."""

    table: pd.DataFrame
    """A row per file: the columns COLUMNS."""
    scenes: tuple[str, ...]
    """In the order of the logits."""
    any_length: bool
    """Whether files may be longer or shorter than a clip."""
    notes: tuple[str, ...] = ()
    """What a user should know of how the tables were read."""
    cut_by_file: frozenset[str] = frozenset()
    """Scenes of which files were cut out of places that are trained on."""
    to_pretrain: bool = False
    """As of the data set."""


@dataclass(frozen=True)
class Fold:
    """One of several parts of the clips that are not for testing, which validates in place of what is cut out
    for that."""

    number: int
    """From 1."""
    of: int
    """How many there are."""
    by: str
    """location or city: what is in one fold as a whole."""


@dataclass(frozen=True)
class _TauRules:
    """What settings say of TAU's splits."""

    train_split: TrainSplit
    challenge: bool


@dataclass(frozen=True)
class DataSet:
    """A kind of data set."""

    what: str
    """In a sentence: `data.root` is neither this nor ..."""
    is_it: Callable[[Path], bool]
    """Whether this is what lies at a path."""
    read: Callable[[Path, _TauRules], tuple[pd.DataFrame, tuple[str, ...]]]
    """Its clips, with the columns COLUMNS and the row in the user's table as index, and notes for the user.

    File names are relative to the path, or to the folder of a file. Where all clips are for training, the
    parts for testing and validation are cut out later. Raises DataError for what can't be read."""
    any_length: bool = False
    """Whether files may be longer or shorter than a clip, into which they are cut."""
    to_pretrain: bool = False
    """Whether it is one to pre-train on, which `latest` never means where a stage takes the scenes."""


def without_rules(
    read: Callable[[Path], pd.DataFrame],
) -> Callable[[Path, _TauRules], tuple[pd.DataFrame, tuple[str, ...]]]:
    """For a data set that settings leave as it is, and of which there is nothing to tell."""
    return lambda root, _: (read(root), ())


def _read_tau(root: Path, rules: _TauRules) -> tuple[pd.DataFrame, tuple[str, ...]]:
    clips = read_tau(root, train_split=rules.train_split)
    if not clips.published:
        told = (
            "other recordings in the layout of TAU 2022 Mobile: their own lists are used whole (no "
            "data.train_split)"
        )
        return clips.table, (told,)
    check_challenge_rule(rules.train_split, challenge=rules.challenge)
    told = f"the published {rules.train_split} % training split of TAU Urban Acoustic Scenes 2022 Mobile"
    return clips.table, (told,)


DATA_SETS: tuple[DataSet, ...] = (
    DataSet("a TAU 2022 folder (meta.csv, evaluation_setup/, audio/)", is_tau, _read_tau),
    DataSet(
        "a CochlScene folder (Train/, Val/, Test/)",
        is_cochlscene,
        lambda root, _: read_cochlscene(root),
        any_length=True,
        to_pretrain=True,
    ),
    DataSet(
        "a CSV file with the columns filename, scene, device",
        Path.is_file,
        without_rules(read_csv_table),
        any_length=True,
    ),
)


def read_clips(
    root: Path,
    *,
    scenes: Sequence[str] = (),
    train_split: TrainSplit = "25",
    challenge: bool = True,
    validation_share: float,
    test_share: float,
    seed: int,
    fold: Fold | None = None,
) -> _SceneClips:
    """The checked clips of one of DATA_SETS, with a validation part cut out by location where it has none.

    Where a scene has too few locations, its files are cut, and a note says so. A `fold` takes the place of
    the validation part, also of one that the data has.

    Without `scenes` they are those of the data. Raises DataError, naming the rows, for what can't be used.
    """
    kind = next((each for each in DATA_SETS if each.is_it(root)), None)
    if kind is None:
        raise DataError(f"{root} is neither {' nor '.join(each.what for each in DATA_SETS)}")
    table, notes = kind.read(root, _TauRules(train_split, challenge))
    scenes = tuple(scenes) or tuple(sorted(set(table["scene"]) - {""}))
    check_clips(table, scenes=scenes, source=str(root))
    if len(scenes) < 2:
        raise DataError(f"{root} has the scene {', '.join(scenes)} alone: a classifier needs two or more")
    of_few_places: set[str] = set()
    cuts = {TEST: test_share} if fold else {TEST: test_share, VALIDATION: validation_share}
    for split, share in cuts.items():
        if not (table["split"] == split).any():
            table = cut_by_location(table, share=share, to=split, seed=seed)
            table, found = cut_by_file(table, share=share, to=split, seed=seed)
            notes += _warning(split, found)
            of_few_places |= set(found)
    if fold:
        table = with_fold(table, fold=fold.number, folds=fold.of, by=fold.by, seed=seed)
        notes += (
            f"Fold {fold.number} of {fold.of}, by {fold.by}, is for validation, all others for training",
        )
    return _SceneClips(
        table[COLUMNS].reset_index(drop=True),
        scenes,
        any_length=kind.any_length,
        notes=notes,
        cut_by_file=frozenset(of_few_places),
        to_pretrain=kind.to_pretrain,
    )


def _warning(split: str, scenes: Sequence[str]) -> tuple[str, ...]:
    """What to know of a part for which whole files were cut out."""
    if not scenes:
        return ()
    return (
        f"Too few places to cut the {split} part by location: whole files were cut out of "
        f"{', '.join(scenes)} instead, from places that are trained on. Scores on the {split} clips come out "
        f"too good: they say how well these places are known, not how well new ones will be. Ways out: "
        f"recordings at three places or more of each scene, or a column 'split' (train, validation, test)",
    )


def audio_root(root: Path) -> Path:
    """The folder that filenames are relative to."""
    return root.parent if root.is_file() else root
