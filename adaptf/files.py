"""Writing files so that a half-written one is never taken for a whole one, and telling whether one has changed."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

_Item = TypeVar("_Item")


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


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blocks_of(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Consecutive parts of `size` items; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
