"""Content hashes of audio files, remembered so that a file that did not change is not read again."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

import pandas as pd
import xxhash
from tqdm import tqdm

from adaptf.data.errors import DataError, raise_problems
from adaptf.data.parquet import read_table, write_table
from adaptf.files import blocks_of, one_at_a_time
from adaptf.names import find_file, missing_file

logger = logging.getLogger(__name__)

_MEMORY = "files.parquet"
_MEMORY_COLUMNS = ["path", "size", "modified", "inode", "changed", "content"]
_FILES_PER_TASK, _BYTES_PER_READ = 512, 2**22

FileState = tuple[str, int, int, int, int]
"""Path, size in bytes, time of the content's change in ns, inode, time of the inode's change in ns.

A file whose state is the same has the same content, but for images (squashfs) and mounts that give constant
times: the latter two tell what was swapped, or written over and given its former time, as DVC and tar do.
"""


class HashedFile(NamedTuple):
    """A file as it was when it was hashed."""

    state: FileState
    content: str
    """128-bit hash of its bytes, as 32 hexadecimal digits; equal hashes mean equal files."""


def hash_files(
    root: Path,
    filenames: Sequence[str],
    *,
    memory_folder: Path,
    pool: ProcessPoolExecutor,
    read_all: bool = False,
) -> dict[str, HashedFile]:
    """The content of each file by its name.

    Unless with `read_all`, a file is read again only where its state differs from the last time. Raises
    DataError that names the files which are missing or may not be read.
    """
    known = {} if read_all else _remembered(memory_folder / _MEMORY)
    folder = str(root.resolve())
    states = [
        state_of(os.path.join(folder, name)) or state_of(str(find_file(Path(folder), name)))
        for name in filenames
    ]
    missing = [
        f"{name}: {missing_file(root / name)}"
        for name, state in zip(filenames, states, strict=True)
        if state is None
    ]
    raise_problems(missing, of=str(root))
    present = [state for state in states if state is not None]
    new = [state for state in present if state not in known]
    if new:
        hashed = dict(zip(new, _hash_all([state[0] for state in new], pool), strict=True))
        refused = {state: error.strerror for state, error in hashed.items() if isinstance(error, OSError)}
        named = zip(filenames, present, strict=True)
        raise_problems(
            [f"{name}: it can't be read ({refused[state]})" for name, state in named if state in refused],
            of=str(root),
        )
        read = {state: content for state, content in hashed.items() if isinstance(content, str)}
        _remember(memory_folder, read)
        known |= read
    return {name: HashedFile(state, known[state]) for name, state in zip(filenames, present, strict=True)}


def state_of(path: str) -> FileState | None:
    """None where there is no file."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null character in the name
        return None
    if not S_ISREG(stat.st_mode):
        return None
    return path, stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns


def _hash_all(paths: Sequence[str], pool: ProcessPoolExecutor) -> list[str | OSError]:
    """Each file's hash, or why it can't be read.

    By processes: threads would wait for each other, because a file takes less time than a change of turns.
    """
    hashes: list[str | OSError] = []
    with tqdm(None, "hashing files", len(paths), unit="file", delay=2, mininterval=1) as bar:
        for block in pool.map(_hash_block, blocks_of(paths, _FILES_PER_TASK)):
            hashes += block
            bar.update(len(block))
    return hashes


def _hash_block(paths: Sequence[str]) -> list[str | OSError]:
    return [_hash_or_error(path) for path in paths]


def _hash_or_error(path: str) -> str | OSError:
    try:
        return hash_of(path)
    except OSError as error:
        return error


def hash_of(path: str) -> str:
    """Hash of one file, read without a buffer in between: files are small, and many."""
    hasher, file = xxhash.xxh3_128(), os.open(path, os.O_RDONLY)
    try:
        while content := os.read(file, _BYTES_PER_READ):
            hasher.update(content)
    finally:
        os.close(file)
    return hasher.hexdigest()


def _remembered(path: Path) -> dict[FileState, str]:
    if not path.is_file():
        return {}
    try:
        rows = read_table(path)[_MEMORY_COLUMNS].itertuples(index=False, name=None)
    except (DataError, KeyError) as error:
        logger.warning("%s tells too little of files (%s): all are hashed again", path, error)
        return {}
    return {row[:-1]: row[-1] for row in rows}


def _remember(folder: Path, read: dict[FileState, str]) -> None:
    """Adds to what is remembered, which other processes do too."""
    path = folder / _MEMORY
    folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(path.with_suffix(".lock"), f"writing {path}"):
        for half_written in folder.glob(f".{path.name}.*"):  # by a process that was killed
            half_written.unlink()
        latest = {state[0]: (*state, content) for state, content in (_remembered(path) | read).items()}
        write_table(path, pd.DataFrame(list(latest.values()), columns=_MEMORY_COLUMNS))
