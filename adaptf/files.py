"""Writing files so that a half-written one is never taken for a whole one,
and telling whether one has changed."""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import filelock

from adaptf.errors import UserError

logger = logging.getLogger(__name__)
_Item = TypeVar("_Item")


@contextmanager
def written_aside(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """A place beside `path` for what is to be there once it is whole:
    readers see the old file or the new one.

    Nobody else has the place, in whatever container. Without `flush` that holds for processes that are
    killed, but not for a machine that loses its power.
    """
    aside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield aside
        if flush and aside.is_file():
            sync(aside)
        aside.replace(path)
        if flush:
            sync(path.parent)
    finally:
        remove(aside)


def write_atomically(path: Path, content: bytes, *, flush: bool = True) -> None:
    """All of a file or nothing; `flush` as for `written_aside`."""
    with written_aside(path, flush=flush) as aside:
        aside.write_bytes(content)


def sync(path: Path) -> None:
    """Returns when the content of a file, or the list of a folder's files, is on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError:
        if not path.is_dir():  # some mounts can't do that with a folder
            raise
    finally:
        os.close(opened)


def remove(path: Path) -> None:
    """A file or folder that need not be there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def one_at_a_time(lock: Path, doing: str) -> Iterator[None]:
    """Waits for whoever is `doing` the same; the system frees the lock of a killed process."""
    held = filelock.FileLock(lock)
    try:
        held.acquire(blocking=False)
    except filelock.Timeout:
        logger.info("Another process is %s: waiting for it", doing)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def writable_folder(folder: Path, *, what: str) -> Path:
    """The folder, made where it is not there, once a file has been written in it.
    Raises UserError that calls it `what`."""
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


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blocks_of(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Consecutive parts of `size` items; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
