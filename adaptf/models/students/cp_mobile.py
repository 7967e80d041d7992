"""CP-Mobile (Schmid et al., DCASE 2023), as it is the baseline of DCASE 2025, task 1."""

from torch import Tensor, nn

from adaptf.models.initialise import initialise
from adaptf.models.students.tfsepnet.network import ConvNormRelu

_MULTIPLE = 8
"""Channels are rounded to multiples of it."""
_STRIDES = (((1, 1), (1, 1), (1, 2)), ((2, 1), (1, 1)), ((1, 1),))
"""Over frequency and time, of each block of each stage."""
WIDTH, MULTIPLIER, EXPANSION = 32, 1.8, 2.1
"""The baseline's size: 61,148 parameters with ten classes."""


class CpMobile(nn.Module):
    """Log-mel (batch, 1, bands, frames) -> logits (batch, classes).

    `width`: channels of the stem and of the first stage. `multiplier`: channels of a stage for each of the
    stage before. `expansion`: channels within a block for each that comes in. Both make multiples of 8.
    Raises ValueError where the width is none, or a factor is below 1.
    """

    def __init__(
        self,
        *,
        classes: int,
        width: int = WIDTH,
        multiplier: float = MULTIPLIER,
        expansion: float = EXPANSION,
    ) -> None:
        super().__init__()
        if width <= 0 or width % _MULTIPLE:
            raise ValueError(f"width should be a positive multiple of {_MULTIPLE}, got {width}")
        if not min(multiplier, expansion) >= 1:
            raise ValueError(
                f"multiplier and expansion should be 1 or more, got {multiplier} and {expansion}"
            )
        self.stem = nn.Sequential(
            ConvNormRelu(1, width // 4, kernel_size=3, stride=2, padding=1),
            ConvNormRelu(width // 4, width, kernel_size=3, stride=2, padding=1),
        )
        self.body = nn.Sequential()
        channels = width
        for stage, strides in enumerate(_STRIDES):
            wanted = _multiple(width * multiplier**stage)
            for stride in strides:
                self.body.append(_Block(channels, wanted, stride=stride, expansion=expansion))
                channels = wanted
        self.classifier = nn.Sequential(nn.Conv2d(channels, classes, 1, bias=False), nn.BatchNorm2d(classes))
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.body(self.stem(x))).mean(dim=(2, 3))
        return logits


class _Block(nn.Module):
    """An inverted bottleneck (Sandler et al., 2018) with a ReLU behind the sum; where the channels change
    there is no shortcut, and where only the size does it is averaged.

    (batch, in_channels, frequency, time) -> (batch, out_channels, ...)
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: tuple[int, int], expansion: float
    ) -> None:
        super().__init__()
        within = _multiple(in_channels * expansion)
        self.bottleneck = nn.Sequential(
            ConvNormRelu(in_channels, within),
            ConvNormRelu(within, within, kernel_size=3, stride=stride, padding=1, groups=within),
            nn.Conv2d(within, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.has_shortcut = in_channels == out_channels
        self.shortcut = nn.Identity() if stride == (1, 1) else nn.AvgPool2d(3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        transformed: Tensor = self.bottleneck(x)
        if self.has_shortcut:
            transformed = transformed + self.shortcut(x)
        return transformed.relu()


def _multiple(channels: float) -> int:
    """The nearest multiple of 8, or the next one where that takes more than a tenth away."""
    nearest = max(_MULTIPLE, int(channels + _MULTIPLE / 2) // _MULTIPLE * _MULTIPLE)
    return nearest if nearest >= 0.9 * channels else nearest + _MULTIPLE
