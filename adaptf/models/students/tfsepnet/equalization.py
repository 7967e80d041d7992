"""Channels between two convolutions brought to one range, for which 256 steps do (Nagel et al., 2019)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adaptf.models.students.tfsepnet.network import TfSepNet

QUIETEST_SHARE = 0.01
"""Of the loudest channel's maximum: channels that are never louder are not brought up further."""


@torch.no_grad()
def equalize_stem(network: TfSepNet, log_mels: Sequence[Tensor]) -> None:
    """In place, for a network as it is served; its logits stay. Each channel's maximum on the log-mels
    becomes 1.

    The first convolution is divided by the maxima, which its ReLU lets through, and the depthwise ones are
    multiplied by them: those have a scale per channel of their own, so that their weights lose nothing
    (arXiv:1906.04721).
    """
    first: Any = network.stem[0]
    depthwise: Any = network.stem[1]
    maxima = torch.stack([first(clips).amax(dim=(0, 2, 3)) for clips in log_mels]).amax(dim=0)
    maxima = maxima.clamp(min=QUIETEST_SHARE * float(maxima.max()))
    first.norm.weight.data /= maxima
    first.norm.bias.data /= maxima
    for part in depthwise.parts:
        part.conv.weight.data *= maxima[:, None, None, None]
