"""Writing files so that a half-written one is never taken for a whole one."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from adaptf.errors import UserError

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


def writable_folder(folder: Path, *, what: str) -> Path:
    """The folder, made where it is not there, once a file has been written in it. Raises UserError that calls it `what`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"adaptf")
            file.flush()
    except OSError as error:
        raise UserError(
            f"{what} is '{folder}', where no file can be written ({error.strerror}): give another"
        ) from error
    return folder


def blocks_of(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Consecutive parts of `size` items; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
