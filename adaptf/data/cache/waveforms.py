"""The waveform cache: every clip decoded and resampled once, found by its content,
read as memory-mapped rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from adaptf.data.cache.shards import CLIPS_PER_SHARD, MANIFEST_TYPES, CacheFormat, Shard, shards_of
from adaptf.data.errors import raise_problems
from adaptf.files import sync

INT16_STEP = 2.0**-15


@dataclass(frozen=True)
class WaveformCache:
    """The clips of one format. A clip's row is its place in the shards, one after the other."""

    folder: Path
    format: CacheFormat
    index: pd.DataFrame
    """The manifests of all shards; a clip's row is its place in this table."""

    def __len__(self) -> int:
        return len(self.index)

    def read(
        self, rows: NDArray[np.int64], *, first_sample: NDArray[np.int64] | None = None, samples: int = 0
    ) -> Tensor:
        """float32 clips (rows, samples); with `first_sample` (rows,), so many samples of each from there on.

        One indexed read per shard that the rows touch.
        """
        length = self.format.clip_samples if first_sample is None else samples
        clips = np.empty((len(rows), length), dtype=self.format.sample_type)
        places, rows_in_shard = np.divmod(rows, CLIPS_PER_SHARD)
        for place in np.unique(places):
            at = np.flatnonzero(places == place)
            starts = None if first_sample is None else first_sample[at]
            clips[at] = _read_rows(
                Shard(self.folder, int(place), self.format).mapped(), rows_in_shard[at], starts, length
            )
        return as_float(torch.from_numpy(clips))

    def rows_of(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Row of each clip by its key. Raises DataError for one that is not in the cache."""
        rows = self._find(keys)
        absent = [
            f"the clip with the content {keys[int(place)]} is not cached"
            for place in np.flatnonzero(rows < 0)
        ]
        raise_problems(absent, of=str(self.folder))
        return rows

    def holds(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """(keys,) whether each is there."""
        return self._find(keys) >= 0

    def _find(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Row of each key, -1 where there is none."""
        return self._places.get_indexer(pd.Index(list(keys), dtype="str")).astype(np.int64)

    def flush(self) -> None:
        """Returns when all clips are on the disk;
        until then a machine that loses its power may lose some of them."""
        for shard in shards_of(self.folder, self.format):
            shard.flush()
        sync(self.folder)

    @cached_property
    def _places(self) -> "pd.Index[Any]":
        return pd.Index(self.index["key"], dtype="str")


def open_cache(cache_root: Path, format: CacheFormat) -> WaveformCache:
    """What the cache of this format holds; nothing where there is none.
    Raises DataError where a shard is damaged."""
    folder = cache_root / format.folder_name
    manifests = [shard.read_manifest() for shard in shards_of(folder, format)]
    for place, manifest in enumerate(manifests[:-1]):
        if len(manifest) != CLIPS_PER_SHARD:
            raise Shard(folder, place, format).broken(f"it has {len(manifest)} rows and is not the last one")
    empty = pd.DataFrame(columns=list(MANIFEST_TYPES)).astype(MANIFEST_TYPES)
    index = pd.concat(manifests, ignore_index=True) if manifests else empty
    if index["key"].duplicated().any():
        key = index["key"][index["key"].duplicated()].iloc[0]
        raise Shard(folder, len(manifests) - 1, format).broken(
            f"the content {key} stands in the manifests twice"
        )
    return WaveformCache(folder, format, index)


def as_float(samples: Tensor) -> Tensor:
    """Samples as a cache holds them -> float32."""
    return samples if samples.dtype == torch.float32 else samples.to(torch.float32).mul_(INT16_STEP)


def _read_rows(
    shard: NDArray[np.generic], rows: NDArray[np.int64], first_sample: NDArray[np.int64] | None, samples: int
) -> NDArray[np.generic]:
    """One indexed read; with `first_sample`,
    of the windows that begin there in the samples one after the other."""
    if first_sample is None:
        return shard[rows]
    return sliding_window_view(shard.reshape(-1), samples)[rows * shard.shape[1] + first_sample]
