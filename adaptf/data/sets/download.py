"""Fetching of a public Zenodo record: its archives are fetched, checked and unpacked one by one.

downloads/NAME*.part is what has arrived of an archive, downloads/NAME a whole one, and downloads/NAME.done
says that all of it is checked and unpacked.
"""

import glob
import hashlib
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

import filelock
import gdown
import requests
from tqdm import tqdm

from adaptf.data.errors import DataError

logger = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")

DEVELOPMENT_RECORD = 6337421
"""TAU Urban Acoustic Scenes 2022 Mobile, development set."""
EVALUATION_RECORD = 15517945
"""TAU Urban Acoustic Scenes 2025 Mobile, evaluation set."""
_ZENODO = "https://zenodo.org"

_DATA_FOLDERS = {"audio", "evaluation_setup"}
"""Of a data set: an archive whose members share one of them has no folder of its own around it."""
_UNPACKED_RATIO = 1.2
"""Unpacked size by size, before an archive is there to tell: 24-bit recordings deflate by 10 to 15 %."""
_FETCHES = 3
"""How often an archive is fetched before its wrong checksum is the server's fault."""
_CUTS = 20
"""How often its connection may be cut before the server gets a rest."""
_RESTS_SECONDS = (5, 30, 60, 120)
"""For a server that is busy or out of reach. Zenodo counts requests per minute."""
_REFUSALS = (401, 403, 404, 410)
_FAULTS = (gdown.DownloadError, requests.RequestException)
_TIMEOUT_SECONDS = 60.0
"""Without a byte, before a connection counts as cut."""


@dataclass(frozen=True)
class _Archive:
    """A zip file of a record."""

    name: str
    size: int
    """Bytes."""
    checksum: str
    """md5: and hex digits."""
    url: str


def download_record(record: int, root: Path, *, server: str = _ZENODO) -> None:
    """Fetches and unpacks the zip files of a record into `root`, but for what an earlier call has finished.

    A call that ended at any moment, even killed, is continued by the same call. Raises DataError where the
    record or a file is not to be had, the disk is too small, or another process downloads into `root`.
    """
    archives = _list_archives(f"{server}/api/records/{record}")
    downloads = root / "downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(downloads / "lock").acquire(blocking=False):
            missing = [archive for archive in archives if not (downloads / f"{archive.name}.done").exists()]
            _check_space(missing, downloads)
            for archive in archives:
                path = downloads / archive.name
                if archive in missing:
                    _fetch(archive, path)
                    _unpack(path, root)
                    (downloads / f"{archive.name}.done").touch()
                path.unlink(missing_ok=True)
    except filelock.Timeout:
        raise DataError(f"another process is downloading into {root}: wait for it, or end it") from None
    except OSError as error:
        raise DataError(
            f"can't write below {root} ({error}): that mended, the same command goes on"
        ) from error


def leftovers(downloads: Path) -> list[Path]:
    """What is left in a folder of downloads of archives that are unpacked. Call it while holding its lock."""
    unpacked = [path.with_suffix("") for path in downloads.glob("*.zip.done")]
    return [
        path
        for one in unpacked
        for path in (one, *downloads.glob(f"{glob.escape(one.name)}*.part"))
        if path.exists()
    ]


def _list_archives(url: str) -> list[_Archive]:
    """The zip files of a record. Raises DataError where there are none."""
    try:
        answer = _insist(lambda: _get(url), url)
        archives = [_read_archive(file) for file in answer.json()["files"] if file["key"].endswith(".zip")]
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{url} is no answer of Zenodo about a public record ({error!r})") from error
    if not archives:
        raise DataError(f"{url} names no zip file")
    return archives


def _get(url: str) -> requests.Response:
    answer = requests.get(url, timeout=_TIMEOUT_SECONDS)
    answer.raise_for_status()
    return answer


def _read_archive(file: dict[str, Any]) -> _Archive:
    name = PureWindowsPath(file["key"]).name  # no file outside of the folder
    return _Archive(name, int(file["size"]), str(file["checksum"]), str(file["links"]["self"]))


def _check_space(archives: Sequence[_Archive], downloads: Path) -> None:
    """Raises DataError unless there is room for what will be unpacked and for the archive that is at work."""
    unpacked = sum(archive.size for archive in archives) * _UNPACKED_RATIO
    fetched = [archive.size for archive in archives if not (downloads / archive.name).exists()]
    arrived = sum(part.stat().st_size for part in downloads.glob("*.part"))
    needed = unpacked + max(fetched, default=0) - arrived
    free = shutil.disk_usage(downloads).free
    if needed > free:
        raise DataError(
            f"{len(archives)} archives and what is in them need {needed / 1e9:.1f} GB in {downloads.parent}, "
            f"{free / 1e9:.1f} GB are free there: make space, or choose a folder on another disk"
        )


def _fetch(archive: _Archive, path: Path) -> None:
    """Brings an archive to `path`, or what of it is lacking. Raises DataError where it can't be had."""
    for part in path.parent.glob(f"{archive.name}*.part"):
        if part.stat().st_size >= archive.size:  # of a process that was killed before it could rename it
            part.replace(path)
    for _ in range(_FETCHES):
        if not path.exists():
            _download(archive.url, path)
        if _md5(path) == archive.checksum:
            return
        path.unlink()
        logger.warning("%s: what arrived has not the record's checksum and is deleted", archive.name)
    raise DataError(
        f"{archive.url} does not bring what the record says, {archive.size} bytes with the checksum "
        f"{archive.checksum}, {_FETCHES} times in a row; the same command tries again"
    )


def _download(url: str, path: Path) -> None:
    def fetch() -> Any:
        return gdown.download(
            url,
            str(path),
            resume=True,
            retries=_CUTS,
            timeout=_TIMEOUT_SECONDS,
            user_agent="adaptf",
            use_cookies=False,
        )

    try:
        _insist(fetch, path.name)
    except _FAULTS as error:
        raise DataError(
            f"{url} can't be had ({error}). The same command goes on with what has arrived; if the server "
            f"can't, delete {path}*.part, and it begins anew"
        ) from error


def _insist(ask: Callable[[], _Answer], name: str) -> _Answer:
    """The answer of a server that gets rests while it is busy.
    Raises a refusal at once, else the last fault."""
    for rest_seconds in _RESTS_SECONDS:
        try:
            return ask()
        except _FAULTS as error:
            response = getattr(error, "response", None)
            if response is not None and response.status_code in _REFUSALS:
                raise
            logger.warning("%s: %s; tried again in %g s", name, error, rest_seconds)
            time.sleep(rest_seconds)
    return ask()


def _unpack(archive: Path, root: Path) -> None:
    """Writes the members below `root`, each whole or not at all, without the folder that all of them share.

    Raises DataError for what is no zip file or an encrypted one.
    """
    staging = archive.parent / "unpacking"
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [member for member in zipped.infolist() if not member.is_dir()]
            tops = {member.filename.split("/")[0] for member in members}
            skipped = int(len(tops) == 1 and tops.isdisjoint(_DATA_FOLDERS))
            for member in tqdm(members, f"unpacking {archive.name}", unit="file", delay=2, leave=False):
                unpacked = Path(zipped.extract(member, staging))  # zipfile leaves out drives and ..
                parts = unpacked.relative_to(staging).parts
                path = root.joinpath(*(parts[skipped:] or parts))
                path.parent.mkdir(parents=True, exist_ok=True)
                unpacked.replace(path)
    except (zipfile.BadZipFile, RuntimeError) as error:  # RuntimeError: encrypted, unknown method
        raise DataError(f"{archive} can't be unpacked ({error}): a plain zip file is expected") from error
    shutil.rmtree(staging, ignore_errors=True)
    if hasattr(os, "sync"):
        os.sync()  # the archive is deleted next: a power cut must not take the files


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return f"md5:{hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()}"
