"""Content hashes of audio files, remembered so that a file that did not change is not read again."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from adaptf.data.errors import raise_problems
from adaptf.data.files import write_atomically

MEMORY = "hashes.csv"


def file_hashes(root: Path, filenames: Sequence[str], *, memory_folder: Path, threads: int) -> pd.DataFrame:
    """filename, size (bytes), modified (ns), sha256 of each file, in the given order.

    A file is hashed again only where its size or time of change differs from the last time. Raises DataError that names
    the files which are missing.
    """
    known = _remembered(memory_folder / MEMORY)

    def entry(filename: str) -> tuple[str, int, int, str] | None:
        path = root / filename
        try:
            stat = path.stat()
        except OSError:
            return None
        key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
        return filename, stat.st_size, stat.st_mtime_ns, known.get(key) or sha256_of(path)

    with ThreadPoolExecutor(threads) as pool:
        found_entries = pool.map(entry, filenames)
        entries = list(tqdm(found_entries, "checking files", len(filenames), unit="file", delay=2, mininterval=1))
    missing = [f"{name}: the file is missing" for name, found in zip(filenames, entries, strict=True) if found is None]
    raise_problems(missing, of=str(root))
    table = pd.DataFrame([found for found in entries if found], columns=["filename", "size", "modified", "sha256"])
    _remember(memory_folder / MEMORY, known, root, table)
    return table


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remembered(path: Path) -> dict[tuple[str, int, int], str]:
    if not path.is_file():
        return {}
    table = pd.read_csv(path, dtype={"path": str, "sha256": str}, keep_default_na=False)
    return dict(zip(zip(table["path"], table["size"], table["modified"], strict=True), table["sha256"], strict=True))


def _remember(path: Path, known: dict[tuple[str, int, int], str], root: Path, table: pd.DataFrame) -> None:
    paths = [str((root / name).resolve()) for name in table["filename"]]
    found = zip(zip(paths, table["size"], table["modified"], strict=True), table["sha256"], strict=True)
    merged = known | dict(found)
    if merged == known:
        return
    rows = [(*key, digest) for key, digest in merged.items()]
    text = pd.DataFrame(rows, columns=["path", "size", "modified", "sha256"]).to_csv(index=False, lineterminator="\n")
    os.makedirs(path.parent, exist_ok=True)
    write_atomically(path, text.encode())
