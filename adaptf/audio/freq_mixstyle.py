"""Freq-MixStyle: the frequency statistics of a clip mixed with another clip's (Kim et al., DCASE 2022; Zhou
et al., 2021)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adaptf.audio.on_device import moved

_EPSILON = 1e-6
_OVER = (1, 3)
"""Channels and time of (batch, 1, bands, frames):
what remains is one mean and one deviation per clip and band."""


@dataclass(frozen=True)
class StyleDraw:
    """Which clip's statistics each clip borrows, and how much of its own it keeps."""

    partner: Tensor  # [b]
    own_share: float


class FreqMixStyle:
    """With probability `p` for the whole batch, one share ~ Beta(alpha, alpha) for all its clips."""

    def __init__(self, *, p: float, alpha: float, generator: np.random.Generator) -> None:
        self.p, self.alpha, self.generator = p, alpha, generator

    def draw(self, batch: int) -> StyleDraw | None:
        """None where the batch stays as it is."""
        if self.generator.random() >= self.p:
            return None
        partner = torch.from_numpy(self.generator.permutation(batch))
        return StyleDraw(partner=partner, own_share=float(self.generator.beta(self.alpha, self.alpha)))

    def __call__(self, logmel: Tensor) -> Tensor:
        draw = self.draw(len(logmel))
        return logmel if draw is None else mix_style(logmel, draw)


def mix_style(logmel: Tensor, draw: StyleDraw) -> Tensor:
    """(batch, 1, bands, frames) -> the same shape; no gradient flows through the statistics."""
    with torch.no_grad():
        variance, mean = torch.var_mean(logmel, dim=_OVER, keepdim=True)
        deviation = (variance + _EPSILON).sqrt()
        partner = moved(draw.partner, logmel.device)
        mixed_mean = torch.lerp(mean[partner], mean, draw.own_share)
        mixed_deviation = torch.lerp(deviation[partner], deviation, draw.own_share)
    return (logmel - mean) / deviation * mixed_deviation + mixed_mean
