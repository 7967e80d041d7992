"""Training clips in the memory of the device that trains: read once, then no data crosses to it any more."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptf.data.cache.shards import CacheFormat
from adaptf.data.cache.waveforms import as_float
from adaptf.data.clip_set import ClipSet

OnDevice = Literal["auto", "yes", "no"]

CLIPS_PER_COPY = 1024
SHARE_OF_FREE_MEMORY = 0.5
"""The network, its gradients and the activations of a batch need the rest."""


@dataclass(frozen=True)
class WaveformsOnDevice:
    """Clips (clips, clip_samples) as a tensor."""

    format: CacheFormat
    clips: Tensor

    def read(self, rows: NDArray[np.int64], *, first_sample: NDArray[np.int64] | None = None, samples: int = 0) -> Tensor:
        """float32 clips (rows, samples) on the device, as WaveformCache.read returns them."""
        places = torch.from_numpy(rows).to(self.clips.device)
        if first_sample is None:
            return as_float(self.clips[places])
        starts = torch.from_numpy(rows * self.format.clip_samples + first_sample).to(self.clips.device)
        return as_float(self.clips.view(-1).unfold(0, samples, 1)[starts])


def on_device(clips: ClipSet, device: torch.device) -> ClipSet:
    """The same clips, their waveforms in the memory of `device`."""
    format = clips.waveforms.format
    held = torch.empty(len(clips), format.clip_samples, device=device)
    for rows in np.array_split(np.arange(len(clips)), -(-len(clips) // CLIPS_PER_COPY)):
        held[rows[0] : rows[-1] + 1] = clips.waveforms.read(clips.cache_rows[rows]).to(device)
    return replace(clips, waveforms=WaveformsOnDevice(format, held), cache_rows=np.arange(len(clips)))


def fits(clips: ClipSet, device: torch.device, choice: OnDevice) -> bool:
    """Whether the clips should live on the device. `auto`: on a GPU where they take at most half of its free memory.

    On a CPU `auto` means no: a mapped file that is read again and again is in memory anyway, and gives way to others.
    """
    return has_room(len(clips) * clips.waveforms.format.clip_samples * 4, device, choice)


def has_room(size: int, device: torch.device, choice: OnDevice) -> bool:
    """Whether so many bytes should live on the device."""
    if choice != "auto" or device.type != "cuda":
        return choice == "yes"
    free, _ = torch.cuda.mem_get_info(device)
    return size <= free * SHARE_OF_FREE_MEMORY
