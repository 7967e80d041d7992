"""What lies below a folder, as folders are in the wild: links, hidden files, names of any kind."""

import os
from collections.abc import Container
from pathlib import Path, PurePosixPath

from adaptf.data.errors import DataError


def files_below(root: Path, *, suffixes: Container[str]) -> list[str]:
    """Files with one of the suffixes (in small letters) by their paths relative to the folder,
    with '/', sorted.

    Links to folders are followed, each folder once, so that a circle ends and a link never stands in for the
    folder itself. What is hidden is none of the user's data: macOS writes `._a.wav` beside `a.wav`. A link to
    nothing is no file, and a name that is no UTF-8 cannot stand in a table.
    Raises DataError where a folder may not be read.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    starts = [str(root)]
    for (
        start
    ) in starts:  # which grows by the links, so that they come after the folders that are there themselves
        for folder, subfolders, names in os.walk(start, onerror=_refuse):
            stat = os.stat(folder)
            if (stat.st_dev, stat.st_ino) in seen:
                subfolders.clear()
                continue
            seen.add((stat.st_dev, stat.st_ino))
            subfolders[:] = sorted(filter(_counts, subfolders))
            starts += [path for name in subfolders if os.path.islink(path := os.path.join(folder, name))]
            paths = [
                os.path.join(folder, name) for name in names if _counts(name) and _suffix(name) in suffixes
            ]
            found += [Path(path).relative_to(root).as_posix() for path in paths if os.path.isfile(path)]
    return sorted(found)


def _counts(name: str) -> bool:
    """Names that are no UTF-8 come from the system with surrogates in their place."""
    return not name.startswith(".") and not any("\ud800" <= character <= "\udfff" for character in name)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _refuse(error: OSError) -> None:
    raise DataError(
        f"the folder {error.filename} may not be read ({error.strerror}): allow it, or move it elsewhere"
    ) from error
