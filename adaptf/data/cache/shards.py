"""The files of the waveform cache: shards of raw samples, each with a manifest that says what its rows hold.

A row belongs to a shard once the manifest says so, and the manifest is replaced as a whole after the samples
are written: whatever stands behind the last row of the manifest is not there yet.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xxhash
from numpy.typing import NDArray

from adaptf.data.errors import DataError
from adaptf.data.parquet import read_table, write_table
from adaptf.files import sync

CLIPS_PER_SHARD = 8192
"""1 GB of one-second clips: few files for a reader, and a multiple of every page size."""

MANIFEST_TYPES: dict[str, Any] = {
    "key": str,
    "checksum": str,
    "samples": "int64",
    "peak": "float32",
    "rms": "float32",
    "dc": "float32",
    "clipped": "float32",
    "problem": str,
}
"""Columns of a manifest. `samples`: of the source at the cache's rate, from the clip's first one on."""

_FORGOTTEN = "taken away by prune"
"""Problem of the rows of a shard whose samples are gone."""

SampleType = Literal["float32", "int16"]


@dataclass(frozen=True)
class CacheFormat:
    """What decides the samples of a cached clip."""

    sample_rate: int
    """In Hz."""
    clip_samples: int
    """Length of every clip; shorter ones are padded with zeros."""
    sample_type: SampleType = "float32"
    """float32 is exact; int16 takes half the space and rounds."""

    @property
    def folder_name(self) -> str:
        """One folder per format."""
        return f"{self.sample_rate}hz-{self.clip_samples}-{self.sample_type}"

    @property
    def row_bytes(self) -> int:
        """Size of a clip on disk."""
        return self.clip_samples * np.dtype(self.sample_type).itemsize


@dataclass(frozen=True)
class Shard:
    """Up to CLIPS_PER_SHARD clips."""

    folder: Path
    """Of the cache of this format."""
    place: int
    format: CacheFormat

    @property
    def samples_path(self) -> Path:
        """Raw samples, row after row, as this machine's processor writes them (little endian)."""
        return self.folder / f"{self.place:04d}.samples"

    @property
    def manifest_path(self) -> Path:
        """A table with the columns of MANIFEST_TYPES."""
        return self.folder / f"{self.place:04d}.parquet"

    def read_manifest(self) -> pd.DataFrame:
        """One row per clip. Raises DataError where it is damaged or the samples do not belong to it."""
        try:
            manifest = read_table(self.manifest_path)[list(MANIFEST_TYPES)].astype(MANIFEST_TYPES)
            if len(manifest) and (manifest["problem"] == _FORGOTTEN).all():
                return manifest
            sample_bytes = self.samples_path.stat().st_size
        except (DataError, OSError, ValueError, TypeError, KeyError) as error:
            raise self.broken(f"its manifest or its samples are unreadable: {error}") from error
        if len(manifest) > CLIPS_PER_SHARD:
            raise self.broken(
                f"its manifest has {len(manifest)} rows, at most {CLIPS_PER_SHARD} are expected"
            )
        if sample_bytes < len(manifest) * self.format.row_bytes:
            expected = len(manifest) * self.format.row_bytes
            raise self.broken(
                f"{self.samples_path.name} has {sample_bytes} bytes, at least {expected} are expected"
            )
        return manifest

    def write_manifest(self, rows: Sequence[Sequence[Any]], *, flush: bool = False) -> None:
        """Makes the rows part of the shard, once their samples are written."""
        manifest = pd.DataFrame(rows, columns=list(MANIFEST_TYPES)).astype(MANIFEST_TYPES)
        write_table(self.manifest_path, manifest, flush=flush)

    def forget(self) -> None:
        """Takes its samples away.
        It counts as full of nothing, since the rows of later shards are counted from it."""
        keys = (f"{_FORGOTTEN}: {self.place}.{row}" for row in range(CLIPS_PER_SHARD))
        self.write_manifest([(key, "", 0, 0.0, 0.0, 0.0, 0.0, _FORGOTTEN) for key in keys], flush=True)
        self.samples_path.unlink(missing_ok=True)

    def flush(self) -> None:
        """Returns when the shard is on the disk."""
        for path in self.folder.glob(f"{self.place:04d}.*"):
            sync(path)

    def mapped(self) -> NDArray[np.generic]:
        """(CLIPS_PER_SHARD or fewer, clip_samples) as the file holds them."""
        stat = os.stat(self.samples_path)
        return _mapped(str(self.samples_path), stat.st_ino, stat.st_size, self.format)

    def broken(self, what: str) -> DataError:
        """The error for a shard that can't be used."""
        return DataError(
            f"the waveform cache can't be used, shard {self.samples_path}: {what}. Delete the folder "
            f"{self.folder} and run `prepare` again"
        )


@lru_cache(maxsize=1024)
def _mapped(path: str, inode: int, size: int, format: CacheFormat) -> NDArray[np.generic]:
    """Kept per process: the pages of a mapping made anew for each batch would have to be found anew."""
    shape = (size // format.row_bytes, format.clip_samples)
    return np.memmap(path, dtype=format.sample_type, mode="r", shape=shape)


def shards_of(folder: Path, format: CacheFormat) -> list[Shard]:
    """The shards that have a manifest. Raises DataError where one is missing between others."""
    manifests = folder.glob("[0-9][0-9][0-9][0-9].[!s]*")  # former ones are compressed CSV files
    places = sorted({int(path.name.partition(".")[0]) for path in manifests})
    shards = [Shard(folder, place, format) for place in range(len(places))]
    if places != [shard.place for shard in shards]:
        absent = sorted(set(range(places[-1])) - set(places))[0]
        raise Shard(folder, absent, format).broken("its manifest is missing")
    return shards


def checksum(samples: NDArray[np.generic]) -> str:
    """64-bit hash of a row's bytes, 16 hexadecimal digits."""
    return str(xxhash.xxh3_64_hexdigest(np.ascontiguousarray(samples).data))
