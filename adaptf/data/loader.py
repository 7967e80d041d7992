"""Data loaders that read a whole batch at once, alike on one process and on many."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Sampler

from adaptf.data.batch import ClipBatch
from adaptf.data.clip_set import ClipSet
from adaptf.data.shared_memory import handed_over

PREFETCHED = 2
"""Batches that each worker reads ahead, PyTorch's default."""
BYTES_PER_SAMPLE = 4


class BatchRows(Sampler[list[int]]):
    """Rows of each batch. Shuffled by seed and epoch, so that a resumed run sees the order it would have seen.

    Batches differ by one clip at most: a last batch of few clips would upset batch normalization. Of several processes each
    takes every n-th row unless `shared` is off; where shuffled, rows of the start fill up so that all have as many batches.
    """

    def __init__(self, clips: int, *, batch_size: int, shuffle: bool, seed: int, shared: bool = True) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size should be at least 1, got {batch_size}")
        self.clips, self.batch_size, self.shuffle, self.seed = clips, batch_size, shuffle, seed
        self.shared = shared
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        for rows in np.array_split(self._own_rows(), len(self)):
            yield rows.tolist()

    def __len__(self) -> int:
        return -(-len(self._own_rows()) // self.batch_size)

    def _own_rows(self) -> np.ndarray:
        rank, processes = (dist.get_rank(), dist.get_world_size()) if self.shared and dist.is_initialized() else (0, 1)
        if not self.shuffle:
            return np.arange(rank, self.clips, processes)
        rows = np.random.default_rng([self.seed, self.epoch]).permutation(self.clips)
        filled = np.resize(rows, -(-self.clips // processes) * processes)
        return filled[rank::processes]


def bytes_ahead(clips: ClipSet, *, batch_size: int, workers: int) -> int:
    """What batches take that `workers` processes have read ahead, and the two that the training holds."""
    batches = min(PREFETCHED * workers + 2, -(-len(clips) // batch_size)) if workers else 0
    return batches * min(batch_size, len(clips)) * clips.samples * BYTES_PER_SAMPLE


def clip_loader(
    clips: ClipSet,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int = 0,
    first_epoch: int = 0,
    workers: int = 0,
    pin_memory: bool = False,
    shared: bool = True,
) -> DataLoader[ClipBatch]:
    """A loader whose items are whole batches; `workers` processes read ahead where there are any.

    `shared`: of several training processes each gets its share; otherwise each gets all clips.
    """
    rows = BatchRows(len(clips), batch_size=batch_size, shuffle=shuffle, seed=seed, shared=shared)
    rows.set_epoch(first_epoch)
    return DataLoader(
        clips,
        sampler=rows,
        batch_size=None,
        collate_fn=handed_over,  # type: ignore[arg-type]  # it gets a whole batch, for lack of a batch size
        # One of its own: workers would take their seeds from the global one, and move what dropout draws from it.
        generator=torch.Generator().manual_seed(seed),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
    )
