"""What ends a stage and is no fault of the program: what its user reads in the place of a traceback."""

import errno
import os
import shutil
import tempfile
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

import torch

from adaptf.data.shared_memory import SHARED_MEMORY
from adaptf.errors import UserError
from adaptf.files import writable_folder
from adaptf.tracking.refusals import refusal
from adaptf.tracking.work_folder import work_root

_REFUSALS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ENODEV,
    errno.EMFILE,
    errno.ENOMEM,
    errno.ENOLCK,
}
"""Of the system: full, read-only, another's, broken, gone, or without locks."""


def check_places() -> None:
    """Raises UserError where no file can be written in the folders that every stage needs."""
    writable_folder(work_root(), what="The folder for unfinished work (ADAPTF_WORK, or ./work)")
    writable_folder(_temporary(), what="TMPDIR, the folder for temporary files,")


def message(error: Exception) -> str | None:
    """What a user is told of an error; None for a fault of the program, of which the traceback tells most."""
    if isinstance(error, UserError):
        return str(error)
    if refused := refusal(error):
        return refused
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        named = f" ({error.filename})" if error.filename else ""
        places = {"ADAPTF_WORK": work_root(), "TMPDIR": _temporary(), "shared memory": SHARED_MEMORY}
        listed = "; ".join(f"{_with_space(folder)} ({what})" for what, folder in places.items())
        return f"{error.strerror}{named}. Stages write to data.cache and to: {listed}"
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"{str(error).splitlines()[0]} Take smaller batches (batch_size), and add up as many more "
            "(accumulate_batches)"
        )
    if isinstance(error, MemoryError):
        return f"memory is short: {error or 'the system gives no more'}"
    if isinstance(error, BrokenProcessPool):
        return (
            "a process that worked for this one crashed, or was ended from outside, as the system does when "
            "memory is short"
        )
    return None


def _temporary() -> Path:
    """Where the libraries keep temporary files, such as each checkpoint until it is whole."""
    try:
        return Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    except FileNotFoundError as error:
        raise UserError(f"{error.strerror}: set TMPDIR to a folder in which files can be written") from error


def _with_space(folder: Path) -> str:
    with suppress(OSError):  # it is not there, or gives no answer
        return f"{folder}, where {shutil.disk_usage(folder).free / 1e9:.1f} GB are free"
    return str(folder)
