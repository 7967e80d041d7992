"""Logits that somebody has published, as a table or as a tensor with a list of files: looked up by file name.

Each doubt whose logits they are is an error: a student learns from wrong ones without complaint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from adaptf.data.errors import DataError, raise_problems
from adaptf.data.tables import read_strings
from adaptf.models.torch_file import UnreadableFile, read_torch_file

_TABLES, _TENSORS = (".csv",), (".npy", ".pt")
_SURE = 0.01
"""How far the probabilities of a clip, perhaps rounded, may be from a sum of 1."""
_LEAST_PROBABILITY = float(np.finfo(np.float32).eps)
"""In place of 0, of which there is no logarithm."""
_LEAST_ABOVE_CHANCE = 0.2
"""Of the way from chance to all clips, how much a teacher has to know of those that it learnt from."""


@dataclass(frozen=True)
class PublishedLogits:
    """Logits (rows, columns), and what their file and list say of them."""

    source: str
    keys: tuple[str, ...]
    """Of the rows' clips: names without `audio/` and `.wav`."""
    scenes: tuple[str, ...]
    """Of the columns; empty where nobody says: alphabetical."""
    values: NDArray[np.float32]

    @property
    def count(self) -> int:
        """How many clips there are."""
        return len(self.keys)

    def columns(self, scenes: Sequence[str]) -> tuple[str, ...]:
        """The scenes of the columns. Raises DataError where they are others than those of the data."""
        columns = self.scenes or tuple(sorted(scenes))
        if sorted(columns) != sorted(scenes) or len(columns) != self.values.shape[1]:
            named = f" ({', '.join(self.scenes)})" if self.scenes else ""
            raise DataError(
                f"{self.source} holds {self.values.shape[1]} columns{named}, the data have the scenes "
                f"{', '.join(scenes)}: there should be one of each"
            )
        return columns

    def of(self, filenames: Sequence[str], scenes: Sequence[str]) -> NDArray[np.float32]:
        """Logits (clips, scenes) in this order; of probabilities their logarithms.

        Raises DataError where clips are missing or nothing is said of them.
        """
        columns = self.columns(scenes)
        rows = pd.Index(self.keys).get_indexer(pd.Index([_key(name) for name in filenames]))
        source = f"{self.source}, which names {self.count} clips such as {self.keys[0]}"
        raise_problems(
            [f"{name}: no logits" for name, row in zip(filenames, rows, strict=True) if row < 0], of=source
        )
        values = self.values[rows][:, [columns.index(scene) for scene in scenes]]
        says_something = np.isfinite(values).all(axis=1) & (np.ptp(values, axis=1) > 0)
        wrong = [
            f"{filenames[row]}: ({', '.join(f'{one:g}' for one in values[row])}) are no logits"
            for row in np.flatnonzero(~says_something).tolist()
        ]
        raise_problems(wrong, of=self.source)
        return np.log(np.maximum(values, _LEAST_PROBABILITY)) if are_probabilities(values) else values


def read_published_logits(file: Path, names: Path | None, scenes: Sequence[str]) -> PublishedLogits:
    """A CSV file with the column `filename` and one per scene, or a tensor, .npy or .pt.

    Of a tensor the column `filename` of the CSV file `names` lists the clips, and `scenes` the columns where
    they are not in alphabetical order.

    Raises DataError for what can't be read, holds something else or does not fit together.
    """
    if file.suffix.lower() in _TABLES:
        return _from_table(file, names, scenes)
    if file.suffix.lower() not in _TENSORS:
        raise DataError(f"{file} is no file of logits that is known here: {', '.join((*_TABLES, *_TENSORS))}")
    if names is None:
        raise DataError(
            f"{file} does not say whose logits it holds: give the CSV file that lists the clips of its rows "
            "as `names`"
        )
    values = _tensor(file)
    keys = _keys(read_strings(names, ["filename"])["filename"], of=names)
    if len(keys) != len(values):
        raise DataError(
            f"{file} holds {len(values)} rows, {names} names {len(keys)} files: they don't belong together"
        )
    return PublishedLogits(str(file), keys, tuple(scenes), values)


def check_scenes(
    logits: NDArray[np.floating],
    truth: NDArray[np.integer],
    scenes: Sequence[str],
    *,
    columns: Sequence[str],
    source: str,
) -> float:
    """Macro-average accuracy of logits (clips, scenes) on clips learnt from, with true scenes (clips,).

    Raises DataError where another order of the columns is right more often by half a scene or more, and where
    none is right much more often than chance. `columns`: the scenes for which the file's columns are taken.
    """
    count = len(scenes)
    clips = np.zeros((count, count))
    np.add.at(clips, (truth, logits.argmax(axis=1)), 1)
    shares = clips / clips.sum(axis=1, keepdims=True)  # of each true scene's clips
    right = shares.trace() / count
    true, taken = linear_sum_assignment(shares, maximize=True)
    likely = shares[true, taken].mean()
    if likely - right >= 0.5 / count:
        seems = {scenes[place]: scene for scene, place in zip(scenes, taken.tolist(), strict=True)}
        raise DataError(
            f"{source}: its columns were taken for {', '.join(columns)} and look like "
            f"{', '.join(seems[one] for one in columns)}. In that order {_percent(likely)} of the training "
            f"clips are recognised, else {_percent(right)}"
        )
    if right < 1 / count + _LEAST_ABOVE_CHANCE * (1 - 1 / count):
        raise DataError(
            f"{source}: by its logits {_percent(right)} of the training clips are recognised, chance gives "
            f"{_percent(1 / count)}, and no other order of the columns makes it much more: the list of "
            "names is another than that of the logits, or they are of another data set"
        )
    return float(right)


def are_probabilities(values: NDArray[np.floating]) -> bool:
    """Whether each row is 0 or more and has a sum of 1."""
    return bool((values >= 0).all() and (abs(values.sum(axis=1) - 1) < _SURE).all())


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _from_table(file: Path, names: Path | None, scenes: Sequence[str]) -> PublishedLogits:
    if given := [f"`{option}`" for option, value in (("names", names), ("scenes", scenes)) if value]:
        raise DataError(f"{file} names its clips and scenes itself: leave out {' and '.join(given)}")
    table = read_strings(file, ["filename"])
    columns = [column for column in table.columns if column != "filename"]
    try:
        values = table[columns].to_numpy(np.float32)
    except ValueError as error:
        raise DataError(f"{file} holds logits that are no numbers: {error}") from error
    return PublishedLogits(str(file), _keys(table["filename"], of=file), tuple(columns), values)


def _tensor(file: Path) -> NDArray[np.float32]:
    """(clips, scenes)"""
    value = torch.from_numpy(_array(file)) if file.suffix.lower() == ".npy" else _torch_value(file)
    if not isinstance(value, torch.Tensor):
        raise DataError(f"{file} holds a {type(value).__name__}, not one tensor")
    shape = " x ".join(map(str, value.shape))
    if value.ndim != 2 or not len(value):
        raise DataError(f"{file} holds a tensor of shape {shape}: logits should be clips x scenes")
    if not value.is_floating_point():
        raise DataError(f"{file} holds whole numbers, which are no logits")
    values: NDArray[np.float32] = value.detach().float().numpy()
    return values


def _array(file: Path) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = np.load(file, allow_pickle=False)
        return array
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} can't be read as an array of NumPy: {error}") from error


def _torch_value(file: Path) -> object:
    try:
        return read_torch_file(file)
    except UnreadableFile as error:
        raise DataError(f"{file}: {error}") from error


def _keys(names: pd.Series, *, of: Path) -> tuple[str, ...]:
    """Raises DataError where a name stands there twice, or none does."""
    if names.empty:
        raise DataError(f"{of} names no clips")
    keys = pd.Index([_key(name) for name in names])
    raise_problems([f"{key} stands there twice" for key in keys[keys.duplicated()]], of=str(of))
    return tuple(keys)


def _key(name: str) -> str:
    """By which a clip is looked up: some lists leave out `audio/` and `.wav`; all else has to be the same."""
    short = name.removeprefix("audio/")
    return short[: -len(".wav")] if short.lower().endswith(".wav") else short
