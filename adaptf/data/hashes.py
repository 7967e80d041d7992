"""Content hashes of audio files, remembered so that a file that did not change is not read again."""

import hashlib
import logging
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pandas as pd
import xxhash
from tqdm import tqdm

from adaptf.data.errors import raise_problems
from adaptf.data.files import blocks_of, gzipped_csv, write_atomically

logger = logging.getLogger(__name__)

MEMORY = "files.csv.gz"
MEMORY_COLUMNS = ["path", "size", "modified", "content"]
FILES_PER_TASK, BYTES_PER_READ = 512, 2**22

FileState = tuple[str, int, int]
"""Path, size in bytes, time of change in ns: a file whose state is the same has the same content."""


def content_hashes(root: Path, filenames: Sequence[str], *, memory_folder: Path, threads: int) -> list[str]:
    """128-bit hash of each file's bytes, as 32 hexadecimal digits; equal hashes mean equal files.

    A file is read again only where its size or time of change differs from the last time. Raises DataError that names the
    files which are missing.
    """
    known = _remembered(memory_folder / MEMORY)
    folder = str(root.resolve())

    def entries(names: Sequence[str]) -> list[tuple[FileState, str] | None]:
        return [_entry(os.path.join(folder, name), known) for name in names]

    with ThreadPoolExecutor(threads) as pool, tqdm(None, "checking files", len(filenames), unit="file", delay=2) as bar:
        found = []
        for block in pool.map(entries, blocks_of(filenames, FILES_PER_TASK)):
            found += block
            bar.update(len(block))
    missing = [f"{name}: the file is missing" for name, entry in zip(filenames, found, strict=True) if entry is None]
    raise_problems(missing, of=str(root))
    present = [entry for entry in found if entry is not None]
    if any(state not in known for state, _ in present):
        _remember(memory_folder / MEMORY, known | dict(present))
    return [content for _, content in present]


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entry(path: str, known: dict[FileState, str]) -> tuple[FileState, str] | None:
    """State and hash of a file, or None where it is missing."""
    try:
        stat = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    state = (path, stat.st_size, stat.st_mtime_ns)
    return state, known[state] if state in known else _hash_of(path)


def _hash_of(path: str) -> str:
    """Read without a buffer in between: files are small, and many."""
    hasher, file = xxhash.xxh3_128(), os.open(path, os.O_RDONLY)
    try:
        while content := os.read(file, BYTES_PER_READ):
            hasher.update(content)
    finally:
        os.close(file)
    return hasher.hexdigest()


def _remembered(path: Path) -> dict[FileState, str]:
    if not path.is_file():
        return {}
    try:
        table = pd.read_csv(path, dtype={"path": str, "content": str}, keep_default_na=False)[MEMORY_COLUMNS]
        sizes, times = table["size"].astype("int64").tolist(), table["modified"].astype("int64").tolist()
    except (OSError, EOFError, zlib.error, ValueError, KeyError, OverflowError) as error:
        logger.warning("%s is not readable (%s): all files are hashed again", path, error)
        return {}
    return dict(zip(zip(table["path"], sizes, times, strict=True), table["content"], strict=True))


def _remember(path: Path, known: dict[FileState, str]) -> None:
    latest = {state[0]: (*state, content) for state, content in known.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, gzipped_csv(chain([MEMORY_COLUMNS], latest.values())))
