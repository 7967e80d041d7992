"""How clips reach a training: settings that change its speed, and nothing of its result."""

from dataclasses import dataclass
from typing import Literal

import torch

OnDevice = Literal["auto", "yes", "no"]

SHARE_OF_FREE_MEMORY = 0.5
"""The network, its gradients and the activations of a batch need the rest."""


@dataclass(frozen=True)
class Loading:
    """How clips reach a training."""

    workers: int = 2
    """Processes that read batches ahead; 0 reads in the training process."""
    pin_memory: bool = False
    """Page-locked batches, for copies to a GPU that overlap with work."""
    keep_on_device: OnDevice = "auto"
    """Training clips in the memory of the training device; auto: on a GPU where they take at most half of what is free."""
    log_mel_gb: float = 1.0
    """Gigabytes of memory, in each process, for log-mels that are computed once instead of in every epoch: of validation
    clips, and of training clips where no augmentation changes their waveforms. 0: none. A clip takes 131 kB: TAU's
    validation clips 0.7 GB, its training clips 3.9 GB."""


def has_room(size: int, device: torch.device, choice: OnDevice) -> bool:
    """Whether so many bytes should live on the device. `auto`: on a GPU where they take at most half of its free memory.

    On a CPU `auto` means no: a mapped file that is read again and again is in memory anyway, and gives way to others.
    """
    if choice != "auto" or device.type != "cuda":
        return choice == "yes"
    free, _ = torch.cuda.mem_get_info(device)
    return size <= free * SHARE_OF_FREE_MEMORY
