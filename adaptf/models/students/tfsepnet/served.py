"""TF-SepNet as it is quantized and served: the same logits from operations that integers stand well and
processors run fast.

- No channel is shuffled (`unshuffled`).
- The stem's convolution in groups of one input and four outputs is four depthwise convolutions, for which
  every library has fast kernels: as many weights and operations, other places of the channels.
- The residual normalization right before a block's 1x1 convolution comes after it. What it makes of a few
  quiet bands spans a range of which 256 steps are too few; what comes into it does not.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from adaptf.models.residual_normalization import ResidualNormalization, Statistics
from adaptf.models.students.tfsepnet.equalization import equalize_stem
from adaptf.models.students.tfsepnet.network import ConvNormRelu, TfSepNet
from adaptf.models.students.tfsepnet.unshuffled import UnshuffledBlock, reordered, unshuffled


def served(network: TfSepNet) -> TfSepNet:
    """A copy with the same logits, up to rounding, in evaluation mode. It can't be trained."""
    depthwise = _DepthwiseParts(network.stem[1])
    copy = unshuffled(network, stem_order=depthwise.order)
    copy.stem[1] = depthwise
    for place, (before, block) in enumerate(pairwise(list(copy.body))):
        normalized = isinstance(before, ResidualNormalization) and isinstance(block, UnshuffledBlock)
        if normalized and isinstance(block.transition, ConvNormRelu):
            copy.body[place] = nn.Identity()
            block.transition = NormalizedConvolution(block.transition)
    return copy.eval()


def for_int8(network: TfSepNet, log_mels: Sequence[Tensor]) -> TfSepNet:
    """The served form on the CPU, with channels of the stem brought to one range on these log-mels."""
    form = served(network).cpu()
    equalize_stem(form, log_mels)
    return form


class _DepthwiseParts(nn.Module):
    """A convolution in groups of one input each, as depthwise convolutions: the first of each group's
    outputs, the second, ...

    (batch, groups, frequency, time) -> (batch, out_channels, ...), channels in `order`.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        groups, channels = block.conv.groups, block.conv.out_channels
        of_parts = [list(range(first, channels, channels // groups)) for first in range(channels // groups)]
        self.parts = nn.ModuleList(reordered(block, rows=rows) for rows in of_parts)
        self.order = [channel for rows in of_parts for channel in rows]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=1)


class NormalizedConvolution(nn.Module):
    """Residual normalization, 1x1 convolution, batch normalization and ReLU, convolved before it is
    normalized.

    The normalization makes scale x + shift of x, with one scale and one shift for each clip and frequency. A
    convolution over channels alone, of weights w, makes scale (w x) + shift (sum of w) of that.
    """

    def __init__(self, block: ConvNormRelu) -> None:
        super().__init__()
        conv: nn.Conv2d = block.conv
        norm: Any = block.norm
        factor = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
        self.conv = nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False)
        self.conv.weight.data = conv.weight.detach() * factor[:, None, None, None]
        self.bias = nn.Parameter(norm.bias.detach() - norm.running_mean * factor)
        self.statistics = Statistics()

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.statistics(x)
        convolved = self.conv(x)
        sums = self.conv.weight.sum(dim=1)[None]  # (1, out_channels, 1, 1)
        offset = torch.addcmul(self.bias[:, None, None], sums, shift)
        return torch.addcmul(offset, convolved, scale).relu()
