"""The system's shared memory, in which data loader workers hand batches over: containers have 64 MB of it."""

import errno
import shutil
from pathlib import Path

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import get_worker_info

from adaptf.data.batch import ClipBatch
from adaptf.errors import UserError

SHARED_MEMORY = Path("/dev/shm")
"""Of Linux; other systems have no limit of their own for it."""


class SharedMemoryFull(UserError):
    """Says so itself: a data loader that raises a worker's error again gives it the worker's traceback for a
    message."""

    def __init__(self, *_: str) -> None:
        size = f"{shutil.disk_usage(SHARED_MEMORY).total / 1e6:.0f} MB of " if SHARED_MEMORY.is_dir() else ""
        super().__init__(
            f"{size}shared memory ({SHARED_MEMORY}) are too little for the batches of the workers: give the "
            f"container more (docker run --shm-size=2g), or read in the training process "
            "(trainer.workers=0), or take smaller batches"
        )


def check_shared_memory(needed_bytes: int) -> None:
    """Raises SharedMemoryFull where less is free."""
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free < needed_bytes:
        raise SharedMemoryFull


def handed_over(batch: ClipBatch) -> ClipBatch:
    """In a worker: the batch in shared memory.

    PyTorch would move it there in a thread of its own, whose error reaches nobody:
    the training would wait forever. Raises SharedMemoryFull.
    """
    if get_worker_info() is None:
        return batch
    try:
        shared: ClipBatch = apply_to_collection(batch, Tensor, Tensor.share_memory_)
        return shared
    except RuntimeError as error:
        if f"({errno.ENOSPC})" not in str(error):
            raise
        raise SharedMemoryFull from error
