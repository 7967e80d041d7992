"""CP-ResNet as a teacher: a residual CNN that hears no more of a clip at once than is wanted (Koutini et al.,
EUSIPCO 2019)."""

import torch
from torch import Tensor, nn

from adaptf.errors import UserError
from adaptf.models.initialise import initialise

_STAGES, _BLOCKS_PER_STAGE = 3, 4
_BLOCKS = _STAGES * _BLOCKS_PER_STAGE
_POOLED = (0, 1, 3)
"""Blocks after which bands and frames are halved."""
_MAX_RHO = 2 * _BLOCKS - 2
_MIN_SIZE = 32


class CpResNet(nn.Module):
    """Log-mel (batch, 1, bands, frames), 32 of both and more -> logits (batch, classes).

    `rho` of its convolutions are 3 x 3 beside the first, those behind them 1 x 1: so what a logit is averaged
    of hears 23, 31, 39, 55, 71, 87, 103 or 135 bands and frames for a rho from 0 to 7, and 32 more for each
    further one. With too large a field it learns the training clips by heart (the paper).

    Raises ValueError where a setting or a shape does not fit, UserError for a rho that there is not.
    """

    def __init__(self, *, classes: int, width: int = 128, rho: int = 5) -> None:
        super().__init__()
        if classes < 1 or width < 1:
            raise ValueError(f"classes and width should be at least 1, got {classes} and {width}")
        if not 0 <= rho <= _MAX_RHO:
            raise UserError(f"rho is {rho}: it should be from 0 to {_MAX_RHO}")
        channels = [width, *(width * 2 ** (block // _BLOCKS_PER_STAGE) for block in range(_BLOCKS))]
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.body = nn.Sequential(*_blocks(channels, [3, 1, *[3] * rho, *[1] * (_MAX_RHO - rho)]))
        self.classifier = _conv_norm(channels[-1], classes, 1)
        self.apply(initialise)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in PyTorch's annotations

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 1 or min(x.shape[2:]) < _MIN_SIZE:
            raise ValueError(
                f"log-mel should be (batch, 1, bands, frames), {_MIN_SIZE} bands and frames up, "
                f"got {tuple(x.shape)}"
            )
        x = self.stem(x.contiguous(memory_format=torch.channels_last)).relu_()
        logits: Tensor = self.classifier(self.body(x)).mean(dim=(2, 3))
        return logits


def _blocks(channels: list[int], kernels: list[int]) -> list[nn.Module]:
    """Residual blocks of two of these kernels each, and the pools behind some of them."""
    modules: list[nn.Module] = []
    for block in range(_BLOCKS):
        modules.append(_ResidualBlock(*channels[block : block + 2], *kernels[2 * block : 2 * block + 2]))
        if block in _POOLED:
            modules.append(nn.MaxPool2d(2))
    return modules


class _ResidualBlock(nn.Module):
    """(batch, in_channels, frequency, time) -> (batch, out_channels, frequency, time)"""

    def __init__(self, in_channels: int, out_channels: int, kernel1: int, kernel2: int) -> None:
        super().__init__()
        self.first = _conv_norm(in_channels, out_channels, kernel1)
        self.second = _conv_norm(out_channels, out_channels, kernel2)
        self.shortcut: nn.Module = nn.Identity()
        if out_channels != in_channels:
            self.shortcut = _conv_norm(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.second(self.first(x).relu_())
        return (residual + self.shortcut(x)).relu_()


def _conv_norm(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Convolution without bias that keeps the resolution, and batch normalization."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))
