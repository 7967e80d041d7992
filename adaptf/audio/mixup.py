"""Mixup (Zhang et al., 2018): convex pairs of clips;
whatever belongs to a clip is mixed with the same share and partner."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adaptf.audio.on_device import moved


@dataclass(frozen=True)
class MixDraw:
    """The partner of each clip and the share that each clip keeps of itself."""

    partner: Tensor  # [b]
    own_share: float


class Mixup:
    """One share ~ Beta(alpha, alpha) per batch; `alpha` 0 switches it off."""

    def __init__(self, *, alpha: float, generator: np.random.Generator) -> None:
        self.alpha, self.generator = alpha, generator

    def draw(self, batch: int) -> MixDraw | None:
        """None where the batch stays as it is."""
        if self.alpha <= 0:
            return None
        partner = torch.from_numpy(self.generator.permutation(batch))
        return MixDraw(partner=partner, own_share=float(self.generator.beta(self.alpha, self.alpha)))


def mix(values: Tensor, draw: MixDraw) -> Tensor:
    """share * values + (1 - share) * values of the partners, over the first axis:
    log-mels, soft targets or logits."""
    return torch.lerp(values[moved(draw.partner, values.device)], values, draw.own_share)
