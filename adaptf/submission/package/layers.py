"""The layers of an INT8 network, in a form whose cost the challenge's script counts as it is.

That script counts the bytes of parameters, and multiply-accumulates per place of the output for parameters of
a class that is called ...Conv...: so INT8 weights are parameters of one, biases, which are added and not
multiplied, stand in modules of their own, and what belongs to quantization is kept in buffers.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Int8Conv2d(nn.Module):
    """A convolution whose weights are kept as INT8, with a scale per output channel.

    (batch, in_channels, frequency, time), and a bias (1, out_channels) -> (batch, out_channels, ...)
    """

    scale: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        weight = torch.zeros(out_channels, in_channels // groups, *kernel, dtype=torch.int8)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", torch.ones(out_channels))

    def dequantized(self) -> Tensor:
        """The weights as floats."""
        return self.weight.float() * self.scale[:, None, None, None]

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        bias = None if bias is None else bias[0]
        return F.conv2d(x, self.dequantized(), bias, self.stride, self.padding, self.dilation, self.groups)


class Bias(nn.Module):
    """Values kept as FP16, given as FP32 with a first axis of one more: () -> (1, *shape)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape, dtype=torch.float16), requires_grad=False)

    def forward(self) -> Tensor:
        return self.bias.float()[None]


class Rounding(nn.Module):
    """Values rounded to the steps of an integer: what quantizing and dequantizing make of them."""

    step: Tensor
    zero: Tensor

    def __init__(self, lowest: int = 0, highest: int = 255) -> None:
        super().__init__()
        self.lowest, self.highest = lowest, highest
        self.register_buffer("step", torch.ones((), dtype=torch.float64))
        self.register_buffer("zero", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        integers = x.mul(1 / self.step).round_().add_(self.zero).clamp_(self.lowest, self.highest)
        return integers.sub_(self.zero).mul_(self.step)
