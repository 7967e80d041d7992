"""Unpacking of an archive into a data set's folder: each file is there whole or not at all."""

import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

from tqdm import tqdm

from adaptf.data.errors import DataError, raise_problems

DATA_FOLDERS = ("audio", "evaluation_setup")
"""Folders of a data set: an archive whose members share one of them has no folder of its own around it."""

Member = tuple[zipfile.ZipInfo, Path]
"""A member with the path that it is for."""


def unpack(archive: Path, root: Path) -> None:
    """Writes the members of a zip file below `root`, without the top folder that they share; ends with all on the disk.

    A member that is there with the right size is left as it is. Raises DataError for an archive that is broken or has
    members that lead out of `root`: of such a one nothing is written.
    """
    with _opened(archive) as zipped:
        members = _missing_members(zipped, root)
        for member, path in tqdm(members, f"unpacking {archive.name}", unit="file", delay=2, mininterval=1, leave=False):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Always the same name, and overwritten: what a killed run leaves behind is gone once the member is there.
            temporary = path.with_name(f".{path.name}.part")
            with zipped.open(member) as source, open(temporary, "wb") as target:
                shutil.copyfileobj(source, target)
            temporary.replace(path)
    # Once for all instead of once per clip: the archive is deleted next, so a power cut must not take the files.
    if hasattr(os, "sync"):
        os.sync()


def bytes_to_unpack(archive: Path, root: Path) -> int:
    """Size of the members that `unpack` would write. Raises DataError as `unpack` does."""
    with _opened(archive) as zipped:
        return sum(member.file_size for member, _ in _missing_members(zipped, root))


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as zipped:
            yield zipped
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted, unknown method
        raise DataError(f"{archive} can't be unpacked ({error}): delete it, and the same command fetches it anew") from error


def _missing_members(zipped: zipfile.ZipFile, root: Path) -> list[Member]:
    return [
        (member, path)
        for member, path in _members(zipped, root)
        if not (path.is_file() and path.stat().st_size == member.file_size)
    ]


def _members(zipped: zipfile.ZipFile, root: Path) -> list[Member]:
    """Every file of the archive. Raises DataError that names members which lead out of `root`."""
    files = [member for member in zipped.infolist() if not member.is_dir()]
    # Windows' rules are the stricter ones on every system: both slashes part folders, and a drive is no folder.
    paths = [PureWindowsPath(member.filename) for member in files]
    leading_out = [
        f"member '{member.filename}' leads out of the folder; a relative path without '..' would be right"
        for member, path in zip(files, paths, strict=True)
        if path.anchor or ".." in path.parts or not path.parts
    ]
    raise_problems(leading_out, of=str(zipped.filename))
    tops = {path.parts[0] for path in paths}
    has_folder = len(tops) == 1 and tops.isdisjoint(DATA_FOLDERS) and all(len(path.parts) > 1 for path in paths)
    return [(member, root.joinpath(*path.parts[has_folder:])) for member, path in zip(files, paths, strict=True)]
