"""TF-SepNet: a network of separate convolutions over frequency and over time (Cai et al., ICASSP 2024)."""

from typing import Any

import torch
from torch import Tensor, nn

from adaptf.models.initialise import initialise
from adaptf.models.kernels.fused import axis_mean, conv_norm_relu, fits
from adaptf.models.residual_normalization import ResidualNormalization

_NORM, _POOL = "N", "M"
_LAYOUT: tuple[float | str, ...] = (
    _NORM, 1.0, 1.0, _NORM, _POOL, 1.5, 1.5, _NORM, _POOL, 2.0, 2.0, _NORM, _POOL, 2.5, 2.5, 2.5, _NORM,
)  # fmt: skip
"""The body of depth 17: residual normalization, 2x2 max pooling, or a block of so many times the width."""


WIDTH, DEPTH, DROPOUT = 64, len(_LAYOUT), 0.1
"""The challenge's size: 126,858 parameters with ten classes."""


class TfSepNet(nn.Module):
    """Log-mel (batch, 1, bands, frames) -> logits (batch, classes).

    `width`: channels of the first blocks. `depth`: how many entries of the layout are used. `dropout`: in
    each block. Raises ValueError where the width is not a multiple of 4 or the depth is not in 2 .. 17.
    """

    def __init__(
        self, *, classes: int, width: int = WIDTH, depth: int = DEPTH, dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        if width <= 0 or width % 4:
            raise ValueError(
                f"width should be a positive multiple of 4 (halves and pairs of channels), got {width}"
            )
        if not 2 <= depth <= len(_LAYOUT):
            raise ValueError(f"depth should be from 2 to {len(_LAYOUT)}, got {depth}")
        self.width = width
        half, double = width // 2, 2 * width
        self.stem = nn.Sequential(
            ConvNormRelu(1, half, kernel_size=3, stride=2, padding=1),
            ConvNormRelu(half, double, kernel_size=3, stride=2, padding=1, groups=half),
        )
        body: list[nn.Module] = []
        channels = double
        for entry in _LAYOUT[:depth]:
            if entry == _NORM:
                body.append(ResidualNormalization())
            elif entry == _POOL:
                body.append(nn.MaxPool2d(2))
            else:
                block_channels = int(width * float(entry))
                body.append(TfSepBlock(channels, block_channels, dropout=dropout))
                channels = block_channels
        self.body = nn.Sequential(*body)
        self.apply(initialise)
        self.classifier = nn.Conv2d(
            channels, classes, 1
        )  # keeps PyTorch's initialisation: no ReLU follows it

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(self.stem(x))).mean(dim=(2, 3))


class TfSepBlock(nn.Module):
    """One half of the channels is convolved over frequency, the other over time, each averaged over its own
    axis.

    (batch, in_channels, frequency, time) -> (batch, out_channels, frequency, time)
    """

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float) -> None:
        super().__init__()
        half = out_channels // 2
        self.transition = (
            ConvNormRelu(in_channels, out_channels) if in_channels != out_channels else nn.Identity()
        )
        self.shuffle = ChannelShuffle()
        self.frequency_depthwise = ConvNormRelu(half, half, kernel_size=(3, 1), padding=(1, 0), groups=half)
        self.frequency_pointwise = ConvNormRelu(half, half)
        self.time_depthwise = ConvNormRelu(half, half, kernel_size=(1, 3), padding=(0, 1), groups=half)
        self.time_pointwise = ConvNormRelu(half, half)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shuffle(self.transition(x))
        return separate_convolutions(self, *x.chunk(2, dim=1))


def separate_convolutions(block: Any, over_frequency: Tensor, over_time: Tensor) -> Tensor:
    """A block's layers on halves (batch, channels / 2, frequency, time) -> (batch, channels, ...)."""
    frequency_context = _context(block.frequency_depthwise, over_frequency, dim=2)
    time_context = _context(block.time_depthwise, over_time, dim=3)
    return torch.cat(
        [
            over_frequency + block.dropout(block.frequency_pointwise(frequency_context)),
            over_time + block.dropout(block.time_pointwise(time_context)),
        ],
        dim=1,
    )


def _context(depthwise: Any, x: Tensor, *, dim: int) -> Tensor:
    """The mean over the axis that is convolved."""
    if fits(x, depthwise):
        return axis_mean(x, depthwise.conv, depthwise.norm)
    return depthwise(x).mean(dim=dim, keepdim=True)


class ChannelShuffle(nn.Module):
    """Interleaves both halves of the channels: each half of the next split holds some of each."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, frequency, time = x.shape
        halves = x.view(batch, 2, channels // 2, frequency, time)
        return halves.transpose(1, 2).reshape(batch, channels, frequency, time)


class ConvNormRelu(nn.Sequential):
    """Convolution without bias, batch normalization, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int | tuple[int, int] = 1,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        groups: int = 1,
    ) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        super().__init__()
        self.conv, self.norm, self.relu = conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if fits(x, self):
            return conv_norm_relu(x, self.conv, self.norm)
        return super().forward(x)  # type: ignore[no-untyped-call]
