"""Clips ready for training: what a loader reads with all that belongs to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from adaptf.data.batch import ClipBatch, Labels
from adaptf.data.sources import Source


@dataclass(frozen=True)
class ClipSet(Dataset[ClipBatch]):
    """Indexed by a list of rows, it returns them as one batch."""

    source: Source
    filenames: tuple[str, ...]
    targets: NDArray[np.float32]
    """(clips, classes)"""
    devices: NDArray[np.int64]
    """(clips,)"""
    teacher_logits: NDArray[np.float32]
    """(clips, teachers, classes)"""

    def __len__(self) -> int:
        return len(self.filenames)

    def __getitem__(self, index: Sequence[int]) -> ClipBatch:
        rows = np.asarray(index, dtype=np.int64)
        labels = Labels(
            targets=torch.from_numpy(self.targets[rows]),
            teacher_logits=torch.from_numpy(self.teacher_logits[rows]),
            device=torch.from_numpy(self.devices[rows]),
            row=rows,
        )
        return self.source.batch(rows, labels)

    def part(self, chosen: NDArray[np.bool_]) -> "ClipSet":
        """The clips for which `chosen` (clips,) holds."""
        rows = np.flatnonzero(chosen)
        return ClipSet(
            source=self.source.part(rows),
            filenames=tuple(self.filenames[row] for row in rows),
            targets=self.targets[rows],
            devices=self.devices[rows],
            teacher_logits=self.teacher_logits[rows],
        )


def clip_set(
    filenames: Sequence[str], source: Source, *, targets: NDArray[np.float32], devices: NDArray[np.int64]
) -> ClipSet:
    """A clip set without teachers."""
    no_teachers = np.zeros((len(filenames), 0, targets.shape[1]), dtype=np.float32)
    return ClipSet(source, tuple(filenames), targets, devices, no_teachers)


def scene_clip_set(
    table: pd.DataFrame, source: Source, *, scenes: Sequence[str], devices: Sequence[str]
) -> ClipSet:
    """The clips of a clip table. `devices` are the data's device names, to which `Labels.device` points."""
    scene_rows = pd.Index(scenes).get_indexer(pd.Index(table["scene"]))
    return clip_set(
        tuple(table["filename"]),
        source,
        targets=np.eye(len(scenes), dtype=np.float32)[scene_rows],
        devices=pd.Index(devices).get_indexer(pd.Index(table["device"])).astype(np.int64),
    )


def with_teacher_logits(clips: ClipSet, teacher_logits: NDArray[np.float32]) -> ClipSet:
    """The same clips with logits (clips, teachers, classes) of their own."""
    if teacher_logits.shape[0] != len(clips) or teacher_logits.shape[2] != clips.targets.shape[1]:
        raise ValueError(
            f"teacher logits should be ({len(clips)} clips, teachers, {clips.targets.shape[1]} classes), "
            f"got {teacher_logits.shape}"
        )
    return replace(clips, teacher_logits=teacher_logits)
