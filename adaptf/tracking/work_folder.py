"""Where an unfinished stage keeps what it needs to resume, for one process at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from adaptf.paths import user_path
from adaptf.tracking.lease import Busy
from adaptf.tracking.stage_run import is_process_zero

_WORK = "ADAPTF_WORK"


def work_root() -> Path:
    """Where unfinished stages keep what they need:
    the folder ADAPTF_WORK, or `work` in the working directory."""
    given = os.environ.get(_WORK)
    return Path(user_path(given, what=_WORK)) if given else Path("work").absolute()


def work_folder_name(stage: str, fingerprint: str) -> str:
    """As it stands below `work_root()`."""
    return f"{stage}-{fingerprint[:16]}"


def settle_work_root() -> None:
    """Takes a relative ADAPTF_WORK from where the user stands, for this process and those that it starts."""
    if os.environ.get(_WORK):
        os.environ[_WORK] = str(work_root())


@contextmanager
def work_folder(stage: str, fingerprint: str) -> Iterator[Path]:
    """The folder in which a stage keeps what it needs to resume, for one process (and its helpers) at a time.

    A stage that leaves nothing in it leaves no folder. Raises Busy where another process has it.
    """
    folder = work_root() / work_folder_name(stage, fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    if not is_process_zero():
        yield folder
        return
    lock = filelock.FileLock(folder.with_suffix(".lock"))
    try:
        with lock.acquire(blocking=False):
            folder.mkdir(exist_ok=True)  # whoever held the lock until now may have removed it
            try:
                yield folder
            finally:
                with suppress(OSError):  # it holds something, or the stage has removed it
                    folder.rmdir()
    except filelock.Timeout:
        raise Busy(
            f"another process is running this {stage} with the same settings and data (it holds {folder})",
            wait=lambda: _wait_for(lock),
        ) from None


def _wait_for(lock: filelock.BaseFileLock) -> None:
    """Until whoever holds it is done."""
    with lock:
        pass
