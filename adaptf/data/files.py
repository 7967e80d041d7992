"""Writing files so that a half-written one is never taken for a whole one."""

import csv
import gzip
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")


def write_atomically(path: Path, content: bytes, *, flush: bool = True) -> None:
    """Writes beside the target and renames: a reader sees the old file or the new one.

    Without `flush` that holds for processes that are killed, but not for a machine that loses its power.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def gzipped_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    """The rows as a compressed CSV file: alike for alike rows, and with a checksum that reading verifies."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return gzip.compress(text.getvalue().encode(), compresslevel=6, mtime=0)


def blocks_of(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive parts of `size` items; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
