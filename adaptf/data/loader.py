"""Data loaders that read a whole batch at once, alike on one process and on many."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

from adaptf.data.batch import ClipBatch
from adaptf.data.clip_set import ClipSet
from adaptf.data.loading import Loading
from adaptf.data.shared_memory import handed_over
from adaptf.data.sources import even_batches

_PREFETCHED = 2
"""Batches that each worker reads ahead, PyTorch's default."""


class BatchRows(Sampler[list[int]]):
    """Rows of each batch. Shuffled by seed and epoch,
    so that a resumed run sees the order it would have seen; without a seed in their order.

    Of several processes each takes every n-th row;
    where shuffled, rows of the start fill up so that all have as many batches.
    """

    def __init__(self, clips: int, *, batch_size: int, seed: int | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size should be at least 1, got {batch_size}")
        self.clips, self.batch_size, self.seed = clips, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        return (rows.tolist() for rows in even_batches(self._own_rows(), self.batch_size))

    def __len__(self) -> int:
        return len(even_batches(self._own_rows(), self.batch_size))

    def _own_rows(self) -> NDArray[np.int64]:
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if self.seed is None:
            return np.arange(rank, self.clips, processes)
        rows = np.random.default_rng([self.seed, self.epoch]).permutation(self.clips)
        filled = np.resize(rows, -(-self.clips // processes) * processes)
        return filled[rank::processes]


def bytes_ahead(clips: ClipSet, *, batch_size: int, loading: Loading) -> int:
    """What batches take that the workers have read ahead, and the two that the training holds."""
    workers = _workers(clips, loading)
    batches = min(_PREFETCHED * workers + 2, -(-len(clips) // batch_size)) if workers else 0
    return batches * min(batch_size, len(clips)) * clips.source.clip_bytes


def clip_loader(
    clips: ClipSet, *, batch_size: int, loading: Loading, seed: int | None = None, epoch: int = 0
) -> DataLoader[ClipBatch]:
    """A loader whose items are whole batches, shuffled where there is a seed; `epoch`: the first one.

    What lies in memory already is read without workers.
    """
    rows = BatchRows(len(clips), batch_size=batch_size, seed=seed)
    rows.set_epoch(epoch)
    workers = _workers(clips, loading)
    return DataLoader(
        clips,
        sampler=rows,
        batch_size=None,
        collate_fn=handed_over,  # type: ignore[arg-type]  # it gets a whole batch, for lack of a batch size
        # One of its own: workers would take their seeds from the global one, and move what dropout draws from
        # it.
        generator=torch.Generator().manual_seed(seed or 0),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=loading.pin_memory and clips.source.memory is None,
    )


def _workers(clips: ClipSet, loading: Loading) -> int:
    return loading.workers if clips.source.memory is None else 0
