"""Files of any length as clips of one length:
longer files are cut, shorter ones padded when they are cached."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from adaptf.data.decode import AudioError, seconds_of
from adaptf.data.errors import raise_problems
from adaptf.data.hashes import FileState, state_of
from adaptf.data.parts import part_name, parts_in
from adaptf.files import blocks_of
from adaptf.names import find_file, missing_file

_FILES_PER_TASK = 16
_FILES_REMEMBERED = 2**17
_TICKS_PER_CLIP = 10**6
"""Lengths are compared in millionths of a clip: sample rates differ."""
_WORTH_TELLING_SECONDS = 0.05
"""Files of whole seconds are often a few samples longer or shorter."""


def cut_files(
    table: pd.DataFrame, root: Path, *, clip_seconds: float, workers: int
) -> tuple[pd.DataFrame, list[str]]:
    """A row per clip instead of one per file, and lines that say what was done.

    Lengths come from the headers, where headers hold them.
    Raises DataError that names the files which are missing or are no audio.
    """
    seconds = np.array(_lengths(list(table["filename"]), root, workers))
    parts = [parts_in(round(length / clip_seconds * _TICKS_PER_CLIP), _TICKS_PER_CLIP) for length in seconds]
    rows = table.iloc[np.repeat(np.arange(len(table)), parts)].reset_index(drop=True)
    rows["filename"] = [
        part_name(name, part) if count > 1 else name
        for name, count in zip(table["filename"], parts, strict=True)
        for part in range(count)
    ]
    return rows, _what_was_done(seconds, np.array(parts), clip_seconds)


def _lengths(filenames: Sequence[str], root: Path, workers: int) -> list[float]:
    def lengths(names: Sequence[str]) -> list[float | str]:
        return [_length_or_problem(find_file(root, name)) for name in names]

    found: list[float | str] = []
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(None, "measuring files", len(filenames), unit="file", delay=2, mininterval=1) as bar,
    ):
        for block in pool.map(lengths, blocks_of(filenames, _FILES_PER_TASK)):
            found += block
            bar.update(len(block))
    named = zip(filenames, found, strict=True)
    raise_problems(
        [f"{name}: {problem}" for name, problem in named if isinstance(problem, str)], of=str(root)
    )
    return [length for length in found if not isinstance(length, str)]


def _length_or_problem(path: Path) -> float | str:
    state = state_of(str(path))
    return missing_file(path) if state is None else _seconds_or_problem(state)


@lru_cache(_FILES_REMEMBERED)
def _seconds_or_problem(file: FileState) -> float | str:
    """Length of a file, or why it can't be used.
    Some are decoded to be measured, which no stage needs to do twice."""
    try:
        return seconds_of(Path(file[0]))
    except AudioError as error:
        return str(error)


def _what_was_done(seconds: np.ndarray, parts: np.ndarray, clip_seconds: float) -> list[str]:
    cut, short = parts > 1, seconds < clip_seconds
    rests = seconds - parts * clip_seconds
    dropped, added = np.maximum(rests, 0).sum(), np.maximum(-rests[cut], 0).sum()
    clips, length = parts[cut].sum(), f"{clip_seconds:g} s"
    lines = {
        f"longer files were cut into {clips} clips of {length}: {cut.sum()} files": cut.any(),
        f"rests of less than half a clip were dropped: {dropped:.1f} s in all": dropped
        >= _WORTH_TELLING_SECONDS,
        f"longer rests were padded with zeros at the end: {added:.1f} s in all": added
        >= _WORTH_TELLING_SECONDS,
        f"files shorter than {length} were padded with zeros at the end: {short.sum()} files": short.any(),
    }
    return [line for line, is_so in lines.items() if is_so]
