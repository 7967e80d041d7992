"""The last good router and versions, kept on disk, so that a server can start while the registry is away."""

import json
import logging
import shutil
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from adaptf.files import write_atomically
from adaptf.serving.bundle import bundle_hash
from adaptf.serving.log_lines import log
from adaptf.tracking.production import Promoted

_INDEX = "kept.json"
"""{name: {"version": ..., "folder": ...}}: this one file says which folders count."""

_PREFIX = "adaptf-kept-"
"""Begin of the names of its folders: no other one is ever removed."""
_LOCK_SECONDS = 60.0


class KeptVersions:
    """A folder with the bundle of one version of each registered model.
    Several servers of one registry may share it."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder. Raises OSError where that cannot be done."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(folder / "lock", timeout=_LOCK_SECONDS)

    def versions(self) -> dict[str, Promoted]:
        """By name, as the registry says what is in production."""
        found = {}
        for name, entry in self._index().items():
            with suppress(OSError):  # replaced by another server just now
                found[name] = Promoted(entry["version"], bundle_hash(self.folder / entry["folder"]))
        return found

    def bundle(self, name: str) -> Path:
        """Where the bundle of the kept version is. Raises KeyError where there is none."""
        return self.folder / self._index()[name]["folder"]

    def keep(self, name: str, version: str, bundle: Path) -> None:
        """Copies a bundle, in place of that of another version, which stays where the disk cannot."""
        with self._changing(f"{name}/{version} is not kept"):
            copy = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self.folder))
            shutil.copytree(bundle, copy, copy_function=_copy, dirs_exist_ok=True)
            self._write(self._index() | {name: {"version": version, "folder": copy.name}})

    def forget_others(self, versions: Container[str]) -> None:
        """Drops what is none of the versions, such as `adaptf-a/3`."""
        index = self._index()
        left = {name: entry for name, entry in index.items() if f"{name}/{entry['version']}" in versions}
        if left != index:
            with self._changing("copies of other versions stay"):
                self._write(left)

    @contextmanager
    def _changing(self, otherwise: str) -> Iterator[None]:
        """By one server at a time, and no folder stays that does not count.
        A disk that fails is no reason not to serve."""
        try:
            with self._lock:
                try:
                    yield
                finally:
                    self._remove_others()
        except OSError as error:
            log("kept", logging.WARNING, message=f"{otherwise}: {type(error).__name__}: {error}")

    def _write(self, index: dict[str, dict[str, str]]) -> None:
        write_atomically(self.folder / _INDEX, json.dumps(index, indent=1).encode())

    def _remove_others(self) -> None:
        counts = {entry["folder"] for entry in self._index().values()}
        for folder in self.folder.glob(f"{_PREFIX}*"):
            if folder.is_dir() and folder.name not in counts:
                shutil.rmtree(folder, ignore_errors=True)

    def _index(self) -> dict[str, dict[str, str]]:
        """Empty where there is none, or none that can be read."""
        with suppress(OSError, ValueError, TypeError):
            read = json.loads((self.folder / _INDEX).read_text(encoding="utf-8"))
            entries = read.items() if isinstance(read, dict) else ()
            return {name: one for name, one in entries if {"version", "folder"} <= dict(one).keys()}
        return {}


def _copy(source: str, target: str) -> None:
    """So that it is on the disk before the index says so."""
    write_atomically(Path(target), Path(source).read_bytes())
