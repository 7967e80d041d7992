"""What a data loader reads: waveforms of the cache, waveforms in memory, or features in memory."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptf.audio.on_device import moved
from adaptf.data.batch import ClipBatch, FeatureBatch, Labels, WaveformBatch
from adaptf.data.cache.waveforms import WaveformCache

_Rows = NDArray[np.int64]

_CLIPS_PER_COPY = 1024
FLOAT_BYTES = 4


class Source(Protocol):
    """Where the clips of a set are read from; row i is the set's clip i."""

    @property
    def memory(self) -> torch.device | None:
        """The device in whose memory all of it lies already; None where each batch is read from files."""

    @property
    def clip_bytes(self) -> int:
        """What a clip takes in a batch."""

    @property
    def held_bytes(self) -> int:
        """What all of it takes in memory."""

    def batch(self, rows: _Rows, labels: Labels) -> ClipBatch:
        """The clips of these rows with their labels."""

    def part(self, rows: _Rows) -> "Source":
        """These rows as a source of their own."""

    def held(self, device: torch.device) -> "Source":
        """The same in the memory of the device."""


@dataclass(frozen=True)
class Sample:
    """How much of each clip a batch takes."""

    samples: int
    random: bool = False
    """Whether that part is drawn anew for each batch, or is the middle."""

    def first_samples(self, rows: _Rows, clip_samples: int) -> _Rows | None:
        """(rows,) where each begins; None where clips are taken whole."""
        spare = clip_samples - self.samples
        if spare == 0:
            return None
        if not self.random:
            return np.full(len(rows), spare // 2)
        # Seeded by the batch's own rows: any worker, and a resumed run, draws the same.
        return np.random.default_rng(rows).integers(spare + 1, size=len(rows))


@dataclass(frozen=True)
class CachedWaveforms:
    """Clips of the waveform cache.
    Raises ValueError where they should be longer than the cache holds them."""

    cache: WaveformCache
    cache_rows: _Rows
    """(clips,)"""
    sample: Sample

    def __post_init__(self) -> None:
        held = self.cache.format.clip_samples
        if self.sample.samples > held:
            raise ValueError(
                f"clips of {self.sample.samples} samples are asked for, the cache holds {held} of each"
            )

    @property
    def memory(self) -> None:
        return None

    @property
    def clip_bytes(self) -> int:
        return self.sample.samples * FLOAT_BYTES

    @property
    def held_bytes(self) -> int:
        return len(self.cache_rows) * self.cache.format.clip_samples * FLOAT_BYTES

    def read(self, rows: _Rows) -> Tensor:
        """float32 (rows, samples)"""
        starts = self.sample.first_samples(rows, self.cache.format.clip_samples)
        return self.cache.read(self.cache_rows[rows], first_sample=starts, samples=self.sample.samples)

    def batch(self, rows: _Rows, labels: Labels) -> WaveformBatch:
        return WaveformBatch(self.read(rows), labels)

    def part(self, rows: _Rows) -> "CachedWaveforms":
        return replace(self, cache_rows=self.cache_rows[rows])

    def held(self, device: torch.device) -> "HeldWaveforms":
        clips = torch.empty(len(self.cache_rows), self.cache.format.clip_samples, device=device)
        for rows in even_batches(np.arange(len(clips)), _CLIPS_PER_COPY):
            clips[rows[0] : rows[-1] + 1] = self.cache.read(self.cache_rows[rows]).to(device)
        return HeldWaveforms(clips, self.sample)


@dataclass(frozen=True)
class HeldWaveforms:
    """Clips in memory: read once, then no data crosses to the device any more."""

    clips: Tensor
    """(clips, clip_samples)"""
    sample: Sample

    @property
    def memory(self) -> torch.device:
        return self.clips.device

    @property
    def clip_bytes(self) -> int:
        return self.sample.samples * FLOAT_BYTES

    @property
    def held_bytes(self) -> int:
        return self.clips.nbytes

    def batch(self, rows: _Rows, labels: Labels) -> WaveformBatch:
        length = self.clips.shape[1]
        starts = self.sample.first_samples(rows, length)
        if starts is None:
            return WaveformBatch(_picked(self.clips, rows), labels)
        windows = self.clips.view(-1).unfold(0, self.sample.samples, 1)
        return WaveformBatch(_picked(windows, rows * length + starts), labels)

    def part(self, rows: _Rows) -> "HeldWaveforms":
        return replace(self, clips=_picked(self.clips, rows))

    def held(self, device: torch.device) -> "HeldWaveforms":
        return replace(self, clips=self.clips.to(device))


@dataclass(frozen=True)
class HeldFeatures:
    """What a network takes, computed once: log-mels, or embeddings of a frozen encoder."""

    table: Tensor
    """(clips, ...)"""

    @property
    def memory(self) -> torch.device:
        return self.table.device

    @property
    def clip_bytes(self) -> int:
        return self.table.nbytes // max(1, len(self.table))

    @property
    def held_bytes(self) -> int:
        return self.table.nbytes

    def batch(self, rows: _Rows, labels: Labels) -> FeatureBatch:
        return FeatureBatch(_picked(self.table, rows), labels)

    def part(self, rows: _Rows) -> "HeldFeatures":
        return HeldFeatures(_picked(self.table, rows))

    def held(self, device: torch.device) -> "HeldFeatures":
        return HeldFeatures(self.table.to(device))


def even_batches(rows: _Rows, batch_size: int) -> list[_Rows]:
    """Parts that differ by one row at most: a last batch of few clips would upset batch normalization."""
    return np.array_split(rows, -(-len(rows) // batch_size)) if len(rows) else []


def _picked(table: Tensor, rows: _Rows) -> Tensor:
    """A copy of these rows, on the table's device."""
    return table[moved(torch.from_numpy(rows), table.device)]
