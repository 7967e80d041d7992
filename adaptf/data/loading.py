"""How clips reach a training: settings that change its speed, and nothing of its result."""

from dataclasses import dataclass, field
from typing import Literal

import torch

_OnDevice = Literal["auto", "yes", "no"]

_SHARE_OF_FREE_MEMORY = 0.5
"""The network, its gradients and the activations of a batch need the rest."""


_ASIDE = {"aside": True}
"""Settings that are no part of a run's fingerprint."""


@dataclass(frozen=True)
class Loading:
    """How clips reach a training."""

    workers: int = field(default=2, metadata=_ASIDE)
    """Processes that read batches ahead; 0 reads in the training process."""
    pin_memory: bool = field(default=False, metadata=_ASIDE)
    """Page-locked batches, for copies to a GPU that overlap with work."""
    keep_on_device: _OnDevice = field(default="auto", metadata=_ASIDE)
    """Training clips in the memory of the training device; auto:
    on a GPU where they take at most half of what is free."""
    log_mel_gb: float = field(default=1.0, metadata=_ASIDE)
    """Gigabytes of memory, in each process, for log-mels that are computed once instead of in every epoch: of
    validation clips, and of training clips where no augmentation changes their waveforms. 0: none. A clip
    takes 131 kB: TAU's validation clips 0.7 GB, its training clips 3.9 GB."""


def has_room(size: int, device: torch.device, choice: _OnDevice) -> bool:
    """Whether so many bytes should live on the device. `auto`:
    on a GPU where they take at most half of its free memory.

    On a CPU `auto` means no:
    a mapped file that is read again and again is in memory anyway, and gives way to others.
    """
    if choice != "auto" or device.type != "cuda":
        return choice == "yes"
    free, _ = torch.cuda.mem_get_info(device)
    return size <= free * _SHARE_OF_FREE_MEMORY
