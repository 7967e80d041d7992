"""Fetching of a public Zenodo record: archives are resumed where a run ended, checked and unpacked one by one.

downloads/NAME.part is what has arrived of an archive, downloads/NAME a whole and checked one, downloads/NAME.done says that
all of it is unpacked.
"""

import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

import filelock
import requests
from requests.exceptions import ChunkedEncodingError
from tqdm import tqdm

from adaptf.data.errors import DataError
from adaptf.data.sets.unpack import bytes_to_unpack, unpack

logger = logging.getLogger(__name__)
T = TypeVar("T")

DEVELOPMENT_RECORD = 6337421
"""TAU Urban Acoustic Scenes 2022 Mobile, development set."""
EVALUATION_RECORD = 15517945
"""TAU Urban Acoustic Scenes 2025 Mobile, evaluation set."""
ZENODO = "https://zenodo.org"

DOWNLOADS = "downloads"
FETCHES = 3
"""How often an archive is fetched before its wrong checksum is the server's fault."""
UNPACKED_RATIO = 1.2
"""Unpacked size by size, before an archive is there to tell: 24-bit recordings deflate by 10 to 15 %."""
CHUNK_BYTES = 2**16
"""At most so much is lost when a connection is cut."""
LONGEST_WAIT_SECONDS = 3600.0
"""Zenodo counts requests per minute and per hour."""


@dataclass(frozen=True)
class Patience:
    """How long a server may fail."""

    timeout_seconds: float = 60.0
    """Without a byte, before a connection counts as cut."""
    waits_seconds: tuple[float, ...] = (1, 2, 5, 10, 30, 60)
    """Before each further try, at least: a server may name a longer one. The end once used up without a new byte."""


@dataclass(frozen=True)
class Archive:
    """A zip file of a record."""

    name: str
    size: int
    """Bytes."""
    md5: str
    """Hex digits."""
    url: str


class _Failure(Exception):
    """A server's answer that may be a better one next time, but not before `wait_seconds`."""

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


def download_record(record: int, root: Path, *, server: str = ZENODO, patience: Patience = Patience()) -> None:
    """Fetches and unpacks the zip files of a record into `root`; what an earlier call has finished is not fetched again.

    A call that ended at any moment, even killed, is continued by the same call. Raises DataError where the record or a
    file is not to be had, the disk is too small, or another process downloads into `root`.
    """
    archives = list_archives(record, server=server, patience=patience)
    downloads = root / DOWNLOADS
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(downloads / "lock").acquire(blocking=False):
            missing = [archive for archive in archives if not _marker(archive, downloads).exists()]
            _check_space(missing, root)
            for archive in archives:
                if archive in missing:
                    unpack(fetch_archive(archive, downloads, patience=patience), root)
                    _marker(archive, downloads).touch()
                (downloads / archive.name).unlink(missing_ok=True)
    except filelock.Timeout:
        raise DataError(f"another process is downloading into {root}: wait for it, or end it") from None
    except OSError as error:
        raise DataError(f"can't write below {root} ({error}). Once that is mended, the same command continues") from error


def list_archives(record: int, *, server: str, patience: Patience) -> list[Archive]:
    """The zip files of a record, by name. Raises DataError where there is no such record or its answer is malformed."""
    url, what = f"{server}/api/records/{record}", f"record {record}"

    def ask() -> bytes:
        with _get(url, patience) as response:
            _check_status(response, what)
            return response.content

    answer = _insist(ask, reached=lambda: 0, what=what, url=url, patience=patience)
    try:
        files = json.loads(answer)["files"]
        names = [file["key"] for file in files]
        archives = [_read_archive(file) for file in files if file["key"].lower().endswith(".zip")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{what}: {url} should answer in JSON with `files`, each with key, size, checksum (md5:...) and links.self, "
            f"got {answer[:100]!r} ({error!r})"
        ) from error
    if not archives:
        raise DataError(f"{what}: {url} names no zip file; it names {', '.join(names) or 'no file at all'}")
    return sorted(archives, key=lambda archive: archive.name)


def fetch_archive(archive: Archive, folder: Path, *, patience: Patience) -> Path:
    """The archive in `folder`: what it lacks is fetched, then all is checked. Raises DataError where it can't be had."""
    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if path.is_file():
        return path
    for _ in range(FETCHES):
        _fetch_bytes(archive, part, patience)
        if _md5_of(part) == archive.md5:
            return part.rename(path)
        logger.warning("%s: what arrived has not the record's checksum and is deleted", archive.name)
        part.unlink()
    raise DataError(
        f"{archive.name}: what {_host(archive.url)} sends has not the record's checksum, {FETCHES} times in a row. "
        f"Expected are {archive.size} bytes with the md5 {archive.md5}; the same command tries again"
    )


def _read_archive(file: dict[str, Any]) -> Archive:
    name, size, checksum, url = file["key"], file["size"], file["checksum"], file["links"]["self"]
    if PureWindowsPath(name).name != name:
        raise ValueError(f"{name!r} is no file name")
    if not isinstance(size, int) or size <= 0:
        raise ValueError(f"{name} has the size {size!r}")
    if not re.fullmatch("md5:[0-9a-f]{32}", checksum):
        raise ValueError(f"{name} has the checksum {checksum!r}")
    return Archive(name, size, checksum.removeprefix("md5:"), str(url))


def _marker(archive: Archive, downloads: Path) -> Path:
    return downloads / f"{archive.name}.done"


def _check_space(archives: Sequence[Archive], root: Path) -> None:
    """Raises DataError unless there is room for all that will be unpacked and for the one archive that is at work."""
    downloads = root / DOWNLOADS
    to_unpack, to_fetch = 0.0, 0
    for archive in archives:
        path = downloads / archive.name
        if path.is_file():
            to_unpack += bytes_to_unpack(path, root)
        else:
            to_unpack += archive.size * UNPACKED_RATIO
            to_fetch = max(to_fetch, archive.size - _size_of(downloads / f"{archive.name}.part"))
    needed, free = to_unpack + to_fetch, shutil.disk_usage(root).free
    if needed > free:
        raise DataError(
            f"{len(archives)} archives and what is in them need {needed / 1e9:.1f} GB below {root}, {free / 1e9:.1f} GB are "
            "free there: make space, or choose a folder on another disk"
        )


def _fetch_bytes(archive: Archive, part: Path, patience: Patience) -> None:
    """Fetches what `part` lacks of the archive's bytes."""
    if _size_of(part) > archive.size:
        part.unlink()
    with tqdm(desc=archive.name, total=archive.size, initial=_size_of(part), unit="B", unit_scale=True, mininterval=1) as bar:
        _insist(
            lambda: _fetch_rest(archive, part, bar, patience),
            reached=lambda: _size_of(part),
            what=archive.name,
            url=archive.url,
            patience=patience,
        )


def _fetch_rest(archive: Archive, part: Path, bar: tqdm, patience: Patience) -> None:
    """One request for all bytes that are not there. Raises _Failure where it did not bring them."""
    first_byte = _size_of(part)
    if first_byte == archive.size:
        return
    with _get(archive.url, patience, first_byte=first_byte) as response:
        _check_status(response, archive.name)
        if response.status_code == 200:
            first_byte = 0
        elif _content_begin(response) != first_byte:
            part.unlink(missing_ok=True)
            raise _Failure(f"has no bytes from {first_byte} on, though the archive has {archive.size}; it is fetched anew")
        bar.n = first_byte
        with open(part, "ab" if first_byte else "wb") as file:
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > archive.size:  # its checksum will be wrong: no need to fill the disk with it
                    return
    if (size := _size_of(part)) < archive.size:
        raise _Failure(f"ended after {size} of {archive.size} bytes")


def _insist(attempt: Callable[[], T], *, reached: Callable[[], int], what: str, url: str, patience: Patience) -> T:
    """What `attempt` returns, tried again after failures that may pass.

    Raises DataError once the waits are used up; they begin anew whenever `reached` is further than ever before.
    """
    furthest, failures = reached(), 0
    while True:
        try:
            return attempt()
        except (_Failure, requests.ConnectionError, requests.Timeout, ChunkedEncodingError) as error:
            if reached() > furthest:
                furthest, failures = reached(), 0
            failures += 1
            if failures > len(patience.waits_seconds):
                raise DataError(
                    f"{what}: {_host(url)} brought nothing more in {failures} tries in a row (the last one: {error}). "
                    "What has arrived is kept; the same command continues"
                ) from error
            named = error.wait_seconds if isinstance(error, _Failure) else 0.0
            wait_seconds = max(named, patience.waits_seconds[failures - 1])
            logger.warning("%s: %s; tried again in %g s", what, error, wait_seconds)
            time.sleep(wait_seconds)
        except requests.RequestException as error:
            raise DataError(f"{what}: {url} can't be asked for ({error})") from error


def _get(url: str, patience: Patience, *, first_byte: int = 0) -> requests.Response:
    headers = {"Accept-Encoding": "identity"}  # bytes as they are stored: positions count them
    if first_byte:
        headers["Range"] = f"bytes={first_byte}-"
    return requests.get(url, headers=headers, stream=True, timeout=patience.timeout_seconds)


def _check_status(response: requests.Response, what: str) -> None:
    """Raises _Failure for an answer that may pass and DataError for one that will not."""
    code, url = response.status_code, response.url
    if code == 429 or code >= 500:
        raise _Failure(f"answered {code} {response.reason}", _retry_after_seconds(response))
    if code in (401, 403):
        raise DataError(
            f"{what}: {_host(url)} refuses {url} ({code}): the record should be public, and this network not blocked"
        )
    if code in (404, 410):
        raise DataError(f"{what}: {_host(url)} has no {url} ({code}): the number of a public record is expected")
    if code not in (200, 206, 416):
        raise DataError(f"{what}: {_host(url)} answered {code} {response.reason} for {url}, expected 200")


def _retry_after_seconds(response: requests.Response) -> float:
    """Retry-After, which is a number of seconds or a date; 0 where it is neither."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value) if value.isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)


def _content_begin(response: requests.Response) -> int | None:
    """First byte of a partial answer; None for an answer that is none."""
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _md5_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _size_of(path: Path) -> int:
    """Bytes; 0 where there is no file."""
    return path.stat().st_size if path.is_file() else 0


def _host(url: str) -> str:
    return urlsplit(url).hostname or url
