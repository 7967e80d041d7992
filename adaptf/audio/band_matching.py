"""Band-wise statistics matching:
log-mels of one device as another would have them (Mezza et al., 2020, arXiv:2005.00145).

There a device's test clips are brought to the statistics of the training clips; here training clips are
brought to those of the device that a model is for, scene by scene,
so that devices need not have heard the scenes equally often.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from adaptf.audio.on_device import moved

LARGEST_FACTOR = 2.0
"""Of a band's deviation, and its reciprocal: few clips may have a band that is nearly still."""


class BandMoments:
    """Means and mean squares of each band, by device and scene,
    from log-mels that are added batch by batch."""

    def __init__(self, devices: int, scenes: int, bands: int) -> None:
        self.clips = torch.zeros(devices, scenes, 1, dtype=torch.float64)
        self.sums = torch.zeros(devices, scenes, bands, dtype=torch.float64)
        self.squares = torch.zeros_like(self.sums)

    def add(self, logmel: Tensor, device: Tensor, scene: Tensor) -> None:
        """Log-mels (batch, 1, bands, frames) of devices (batch,) and scenes (batch,)."""
        frames = logmel.double().cpu()
        for into, of_clips in (
            (self.sums, frames.mean(dim=(1, 3))),
            (self.squares, frames.square().mean(dim=(1, 3))),
            (self.clips, torch.ones(len(logmel), 1, dtype=torch.float64)),
        ):
            into.index_put_((device.cpu(), scene.cpu()), of_clips, accumulate=True)

    def matching(self, target: int) -> "BandMatching":
        """What brings each device's log-mels to those of `target`;
        a device that shares no scene with it stays as it is."""
        mean = self.sums / self.clips
        variance = self.squares / self.clips - mean.square()
        shared = (self.clips > 0) & (self.clips[target] > 0)  # (devices, scenes, 1)

        def over_scenes(values: Tensor) -> Tensor:
            """(devices, scenes, bands) -> (devices, bands),
            each over the scenes that it shares with the target."""
            return values.where(shared, torch.nan).nanmean(dim=1)

        ratio = over_scenes(variance[target].expand_as(variance)) / over_scenes(variance)
        factor = ratio.sqrt().clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR).nan_to_num(nan=1.0)
        offset = over_scenes(mean[target].expand_as(mean)) - factor * over_scenes(mean)
        return BandMatching(factor.float(), offset.nan_to_num(nan=0.0).float())


@dataclass(frozen=True)
class BandMatching:
    """Factor and offset (devices, bands) that bring log-mels to another device's mean and deviation in each
    band."""

    factor: Tensor
    offset: Tensor

    def __call__(self, logmel: Tensor, device: Tensor) -> Tensor:
        """Log-mels (batch, 1, bands, frames) of devices (batch,) -> the same shape."""
        tables = (moved(one, logmel.device).to(logmel) for one in (self.factor, self.offset))
        factor, offset = (table[device.to(logmel.device)][:, None, :, None] for table in tables)
        return torch.addcmul(offset, logmel, factor)
