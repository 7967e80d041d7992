"""The teacher of users who have no BEATs file: a small residual CNN, trained from scratch on the scenes."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from adaptf.models.initialise import initialise
from adaptf.models.residual_normalization import ResidualNormalization

_STEM_KERNEL, _STEM_STRIDE = (9, 3), (8, 2)
"""Over bands and frames. Mel bands are many and alike: pooled at once they cost half the time, and no
accuracy."""
_STAGES = (1, 2, 4, 4)
"""Channels of each residual block in widths; a block with more channels than the last one halves bands and
frames."""
_MIN_BANDS = 64
WIDTH = 32
"""Channels of the first stage."""


class SmallCnnTeacher(nn.Module):
    """Log-mel (batch, 1, bands, frames) -> logits (batch, classes), for 64 bands and more.

    Dense convolutions make it bound by arithmetic, not by memory: with five times the parameters of
    TF-SepNet-64 it trains three times as fast on a CPU. A width that is a multiple of 16 fills the
    processor's vectors.

    Raises ValueError where a setting or a shape does not fit.
    """

    def __init__(self, *, classes: int, width: int = WIDTH, dropout: float = 0.2) -> None:
        super().__init__()
        if classes < 1 or width < 1:
            raise ValueError(f"classes and width should be at least 1, got {classes} and {width}")
        channels = [width, *(width * factor for factor in _STAGES)]
        # Takes most of what a recording device does to a spectrum away: without it this network is worse than
        # its student.
        self.normalization = ResidualNormalization()
        self.stem = _conv_norm(1, width, kernel_size=_STEM_KERNEL, stride=_STEM_STRIDE)
        self.body = nn.Sequential(*(_ResidualBlock(before, after) for before, after in pairwise(channels)))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels[-1], classes)
        self.apply(initialise)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in PyTorch's annotations

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] < _MIN_BANDS:
            raise ValueError(
                f"log-mel should be (batch, 1, bands, frames), {_MIN_BANDS} bands up, got {tuple(x.shape)}"
            )
        # Dense convolutions are fastest in this layout, and every layer keeps it.
        x = self.stem(self.normalization(x).contiguous(memory_format=torch.channels_last)).relu_()
        logits: Tensor = self.classifier(self.dropout(self.body(x).mean(dim=(2, 3))))
        return logits


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., 2016), at half the resolution where the channels
    grow.

    (batch, in_channels, frequency, time) -> (batch, out_channels, frequency, time), or half of both, rounded
    up
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        grows = out_channels > in_channels
        self.first = _conv_norm(
            in_channels, out_channels, kernel_size=(3, 3), stride=(2, 2) if grows else (1, 1)
        )
        self.second = _conv_norm(out_channels, out_channels, kernel_size=(3, 3))
        self.shortcut: nn.Module = nn.Identity()
        if grows:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(2, ceil_mode=True), _conv_norm(in_channels, out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.second(self.first(x).relu_())
        return (residual + self.shortcut(x)).relu_()


def _conv_norm(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
) -> nn.Sequential:
    """Convolution without bias, padded to keep the resolution at a stride of one, and batch normalization."""
    padding = (kernel_size[0] // 2, kernel_size[1] // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))
