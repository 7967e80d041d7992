"""Clips ready for training: rows of the waveform cache with all that belongs to them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from adaptf.data.batch import ClipBatch
from adaptf.data.cache.shards import CacheFormat


class Waveforms(Protocol):
    """Where clips are read from: the waveform cache, or the memory of a device."""

    @property
    def format(self) -> CacheFormat:
        """Rate and length of the clips."""

    def read(self, rows: NDArray[np.int64], *, first_sample: NDArray[np.int64] | None = None, samples: int = 0) -> Tensor:
        """float32 clips (rows, samples); with `first_sample` (rows,), so many samples of each from there on."""


@dataclass(frozen=True)
class ClipSet(Dataset[ClipBatch]):
    """Indexed by a list of rows, it returns them as one batch."""

    waveforms: Waveforms
    filenames: tuple[str, ...]
    cache_rows: NDArray[np.int64]
    """(clips,) row of each clip in `waveforms`."""
    targets: NDArray[np.float32]
    """(clips, classes)"""
    devices: NDArray[np.int64]
    """(clips,)"""
    teacher_logits: NDArray[np.float32]
    """(clips, teachers, classes)"""
    samples: int
    """Length of a batch's clips; where cached clips are longer, a part of each."""
    random_part: bool = False
    """Whether that part is drawn anew for each batch, or is the middle."""
    log_mels: Tensor | None = None
    """(clips, 1, bands, frames), which batches then hold instead of waveforms."""

    def __len__(self) -> int:
        return len(self.filenames)

    def __getitem__(self, index: Sequence[int]) -> ClipBatch:
        rows = np.asarray(index, dtype=np.int64)
        return ClipBatch(
            x=self._inputs(rows),
            targets=torch.from_numpy(self.targets[rows]),
            teacher_logits=torch.from_numpy(self.teacher_logits[rows]),
            device=torch.from_numpy(self.devices[rows]),
            row=torch.from_numpy(rows),
            has_features=self.log_mels is not None,
        )

    def part(self, chosen: NDArray[np.bool_]) -> "ClipSet":
        """The clips for which `chosen` (clips,) holds."""
        rows = np.flatnonzero(chosen)
        return replace(
            self,
            filenames=tuple(self.filenames[row] for row in rows),
            cache_rows=self.cache_rows[rows],
            targets=self.targets[rows],
            devices=self.devices[rows],
            teacher_logits=self.teacher_logits[rows],
            log_mels=None if self.log_mels is None else self._inputs(rows),
        )

    def _inputs(self, rows: NDArray[np.int64]) -> Tensor:
        """Log-mels where they are there, else waveforms."""
        if self.log_mels is not None:
            return self.log_mels[torch.from_numpy(rows).to(self.log_mels.device)]
        return self.waveforms.read(self.cache_rows[rows], first_sample=self._first_samples(rows), samples=self.samples)

    def _first_samples(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        spare = self.waveforms.format.clip_samples - self.samples
        if spare == 0:
            return None
        if not self.random_part:
            return np.full(len(rows), spare // 2)
        # Seeded by the batch's own rows: any worker, and a resumed run, draws the same.
        return np.random.default_rng(rows).integers(spare + 1, size=len(rows))


def scene_clip_set(
    table: pd.DataFrame, waveforms: Waveforms, cache_rows: NDArray[np.int64], *, scenes: Sequence[str], devices: Sequence[str]
) -> ClipSet:
    """The clips of a clip table. `devices` are the data's device names, to which `ClipBatch.device` points."""
    scene_rows = pd.Index(scenes).get_indexer(pd.Index(table["scene"]))
    return clip_set(
        tuple(table["filename"]),
        waveforms,
        cache_rows,
        targets=np.eye(len(scenes), dtype=np.float32)[scene_rows],
        devices=pd.Index(devices).get_indexer(pd.Index(table["device"])).astype(np.int64),
        samples=waveforms.format.clip_samples,
    )


def clip_set(
    filenames: Sequence[str],
    waveforms: Waveforms,
    cache_rows: NDArray[np.int64],
    *,
    targets: NDArray[np.float32],
    devices: NDArray[np.int64],
    samples: int,
    random_part: bool = False,
) -> ClipSet:
    """A clip set without teachers. Raises ValueError where clips should be longer than the cache holds them."""
    if samples > waveforms.format.clip_samples:
        raise ValueError(f"clips of {samples} samples are asked for, the cache holds {waveforms.format.clip_samples} of each")
    return ClipSet(
        waveforms=waveforms,
        filenames=tuple(filenames),
        cache_rows=cache_rows,
        targets=targets,
        devices=devices,
        teacher_logits=np.zeros((len(filenames), 0, targets.shape[1]), dtype=np.float32),
        samples=samples,
        random_part=random_part,
    )


def with_teacher_logits(clips: ClipSet, teacher_logits: NDArray[np.float32]) -> ClipSet:
    """The same clips with logits (clips, teachers, classes) of their own."""
    if teacher_logits.shape[0] != len(clips) or teacher_logits.shape[2] != clips.targets.shape[1]:
        raise ValueError(
            f"teacher logits should be ({len(clips)} clips, teachers, {clips.targets.shape[1]} classes), "
            f"got {teacher_logits.shape}"
        )
    return replace(clips, teacher_logits=teacher_logits)
