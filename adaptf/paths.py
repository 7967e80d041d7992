"""Paths as a user gives them:
`~` is the home folder, and a relative path counts from where the user stands."""

import errno
import os
import re
from pathlib import Path

import psutil

from adaptf.errors import UserError
from adaptf.names import find_file

RUN_ID = "MLFLOW_RUN_ID"
"""`mlflow run` gives it to the command that it starts in the project's folder."""
SQLITE = "sqlite:///"
_SHOWN = 60
"""Characters of a value that is too long for a name."""


def user_folder() -> Path | None:
    """Where the user stands; None where that cannot be known.

    `mlflow run` starts its command in the project's folder: the first process above that does not have the
    run's id is `mlflow run` itself, or a program that uses it, and works where it was started.
    """
    run_id = os.environ.get(RUN_ID)
    if not run_id:
        return Path.cwd()
    try:
        above = (process for process in psutil.Process().parents() if process.environ().get(RUN_ID) != run_id)
        return next((Path(process.cwd()) for process in above), None)
    except (psutil.Error, OSError):
        return None


def user_path(value: str, *, what: str) -> str:
    """An absolute path, whether there is a file or not; `what` is given it.
    Raises UserError where it can't be one."""
    expanded = os.path.expanduser(value.strip())
    folder = user_folder()
    if not expanded:
        raise UserError(f"{what} is empty: give a path")
    if expanded.startswith("~"):
        raise UserError(f"{what} is '{value}': there is no home folder of {expanded.partition('/')[0]}")
    if re.match(r"\w[\w+.-]+:/", expanded):
        raise UserError(f"{what} is '{value}': give a path on this machine, not an address")
    if folder is None and not os.path.isabs(expanded):
        raise UserError(
            f"{what} is '{value}', a relative path, and from which folder it counts cannot be known here, "
            f"because `mlflow run` starts its command in the project's folder {Path.cwd()}: give an absolute "
            "path"
        )
    path = os.path.normpath((folder or Path("/")) / expanded)
    if _is_too_long(path):
        raise UserError(f"{what} is '{value[:_SHOWN]}...': no file can have so long a name")
    return str(find_file(Path("/"), path))


def _is_too_long(path: str) -> bool:
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def user_file_or_name(value: str, *, what: str) -> str:
    """The absolute path where a file of the user's is meant, else the value, which is a name,
    a run's id or an address.

    Of several values with commas between them, each.
    """
    if value.startswith(SQLITE):
        return SQLITE + user_path(value.removeprefix(SQLITE), what=what)
    path = found_path(value)
    if path is not None and (
        "/" in value or not path.is_dir()
    ):  # one word may be a name of something else than a folder
        return user_path(value, what=what)
    if "," in value:
        return ",".join(user_file_or_name(one, what=what) for one in value.split(","))
    return user_path(value, what=what) if value.strip().startswith("~") else value


def found_path(value: str) -> Path | None:
    """The absolute path of a file or folder of the user's; None where there is none, or none can be known."""
    expanded = os.path.expanduser(value.strip())
    folder = user_folder()
    if not expanded or (folder is None and not os.path.isabs(expanded)):
        return None
    path = find_file(folder or Path("/"), expanded)
    return (
        Path(os.path.normpath(path)) if os.path.exists(path) else None
    )  # of os.path: many ids are too long a name
