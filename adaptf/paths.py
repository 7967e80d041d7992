"""Paths as a user gives them: `~` is the home folder, and a relative path counts from where the user stands."""

import os
import re
from pathlib import Path

import psutil

from adaptf.data.names import find_file
from adaptf.errors import UserError

RUN_ID = "MLFLOW_RUN_ID"
"""`mlflow run` gives it to the command that it starts in the project's folder."""
SQLITE = "sqlite:///"


def user_folder() -> Path | None:
    """Where the user stands; None where that cannot be known.

    `mlflow run` starts its command in the project's folder: the first process above that does not have the run's id is
    `mlflow run` itself, or a program that uses it, and works where it was started.
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
    """An absolute path, whether there is a file or not; `what` is given it. Raises UserError where it can't be one."""
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
            f"{what} is '{value}', a relative path, and from which folder it counts cannot be known here, because `mlflow run` "
            f"starts its command in the project's folder {Path.cwd()}: give an absolute path"
        )
    path = os.path.normpath((folder or Path("/")) / expanded)
    return str(find_file(Path("/"), path))


def user_file_or_name(value: str, *, what: str) -> str:
    """The absolute path where a file of the user's is meant, else the value, which is a name, a run's id or an address.

    Of several values with commas between them, each.
    """
    if value.startswith(SQLITE):
        return SQLITE + user_path(value.removeprefix(SQLITE), what=what)
    if value.startswith("~"):
        return user_path(value, what=what)
    folder = user_folder()
    if folder is not None and _is_there(folder, value):
        return user_path(value, what=what)
    return ",".join(user_file_or_name(one, what=what) for one in value.split(",")) if "," in value else value


def _is_there(folder: Path, value: str) -> bool:
    """A folder is meant by its path alone: one word may be a name of something else."""
    path = find_file(folder, value)
    return path.is_file() or ("/" in value and path.is_dir())
