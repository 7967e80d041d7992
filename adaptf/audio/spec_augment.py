"""SpecAugment: a stripe of bands and a stripe of frames of each clip set to zero (Park et al., Interspeech
2019)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adaptf.audio.on_device import moved


@dataclass(frozen=True)
class Stripes:
    """The first masked place of each clip along one axis, and the first one after it that is kept."""

    start: Tensor  # [b]
    end: Tensor  # [b]


@dataclass(frozen=True)
class MaskDraw:
    """One stripe of bands and one of frames for each clip."""

    bands: Stripes
    frames: Stripes


class SpecAugment:
    """Stripes of 0 up to `mask_share` of their axis, drawn evenly for each clip; 0 switches it off.

    Raises ValueError where `mask_share` is outside [0, 1).
    """

    def __init__(self, *, mask_share: float, generator: np.random.Generator) -> None:
        if not 0 <= mask_share < 1:
            raise ValueError(f"mask_share should be at least 0 and less than 1, got {mask_share}")
        self.mask_share, self.generator = mask_share, generator

    def draw(self, batch: int, *, bands: int, frames: int) -> MaskDraw | None:
        """None where the batch stays as it is."""
        if self.mask_share == 0:
            return None
        return MaskDraw(bands=self._stripes(batch, bands), frames=self._stripes(batch, frames))

    def _stripes(self, batch: int, size: int) -> Stripes:
        """Widths and starts are rounded down after the draw, as torchaudio does it:
        the last place is never masked."""
        width = self.generator.random(batch) * round(self.mask_share * size)
        start = torch.from_numpy((self.generator.random(batch) * (size - width)).astype(np.int64))
        return Stripes(start=start, end=start + torch.from_numpy(width.astype(np.int64)))

    def __call__(self, features: Tensor) -> Tensor:
        """(batch, 1, bands, frames) -> the same shape."""
        batch, _, bands, frames = features.shape
        draw = self.draw(batch, bands=bands, frames=frames)
        return features if draw is None else mask(features, draw)


def mask(features: Tensor, draw: MaskDraw) -> Tensor:
    """(batch, 1, bands, frames) -> the same shape with zeros in the stripes:
    about the mean, for features are normalised."""
    bands = _inside(draw.bands, features.shape[2], features.device)[:, None, :, None]
    frames = _inside(draw.frames, features.shape[3], features.device)[:, None, None, :]
    return features.masked_fill(bands | frames, 0.0)


def _inside(stripes: Stripes, size: int, device: torch.device) -> Tensor:
    """(batch, size), True inside each clip's stripe."""
    place = torch.arange(size, device=device)
    return (place >= moved(stripes.start, device)[:, None]) & (place < moved(stripes.end, device)[:, None])
