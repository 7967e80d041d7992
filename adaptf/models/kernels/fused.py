"""Steps of training on a CPU in few passes over memory, forward and backward, by the compiled kernels.

Every function here computes what its plain form does up to rounding, and updates the statistics of a
normalization as that does. `fits` says where there is a kernel; the caller has the plain form for elsewhere.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from adaptf.models.kernels.library import library, run

_SMALLEST_PLANE = 256
"""Values of a channel of a clip from which on passes over memory are what takes time."""


def fits(x: Tensor, block: Any = None) -> bool:
    """Whether kernels can train on activations (batch, channels, height, width), by the layers `conv` and
    `norm` of a block where one is given. What is wrong about them is for the plain form to say."""
    return (
        not torch.compiler.is_compiling()  # first: sizes may be symbols
        and not torch._C._are_functorch_transforms_active()
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and type(x) in (Tensor, nn.Parameter)  # others may hold no memory
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.dim() == 4
        and len(x) > 0
        and x.shape[2:].numel() >= _SMALLEST_PLANE
        and (block is None or (_takes(block.conv, x) and _is_plain(block.norm, block.conv)))
        and library() is not None
    )


def _takes(conv: nn.Module, x: Tensor) -> bool:
    return type(conv) is nn.Conv2d and conv.in_channels == x.shape[1] and conv.weight.dtype == x.dtype


def _is_plain(norm: nn.Module, conv: nn.Conv2d) -> bool:
    """Whether it is a batch normalization of what the convolution makes, which takes and updates everything
    that there is."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.momentum is not None
        and norm.affine
        and norm.track_running_stats
        and norm.num_features == conv.out_channels
        and norm.weight.dtype == conv.weight.dtype
    )


def conv_norm_relu(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Convolution, batch normalization by the batch's own statistics, ReLU."""
    if _halves(conv, x):
        y, moments = _Halving.apply(x.contiguous(), conv.weight)  # type: ignore[no-untyped-call]
    else:
        y = conv(x).contiguous()
        moments = _moments_of(y)
        batch, channels, height, width = y.shape
        run("plane_moments", y.dtype, y.detach(), *moments, batch * channels, height * width)
    return _ScaleRelu.apply(y, norm.weight, norm.bias, _Statistics.of(norm, moments, y.shape))  # type: ignore[no-untyped-call]


def _halves(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether it is a convolution of groups of one input that halves even planes."""
    return (
        conv.groups == conv.in_channels
        and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (2, 2), (1, 1))
        and conv.bias is None
        and x.shape[2] % 2 == x.shape[3] % 2 == 0
    )


def axis_mean(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Depthwise convolution of three taps over height or width, batch normalization by the batch's own
    statistics, ReLU, mean over that axis: (batch, channels, 1, width) or (batch, channels, height, 1)."""
    high = conv.kernel_size == (3, 1)
    moments = _moments_of(x)
    x = x if x[0].is_contiguous() else x.contiguous()
    run("axis_moments", x.dtype, x, conv.weight, *moments, *x.shape, x.stride(0), high)
    statistics = _Statistics.of(norm, moments, x.shape)
    return _AxisMean.apply(x, conv.weight, norm.weight, norm.bias, statistics, high)  # type: ignore[no-untyped-call]


def residual_norm(x: Tensor, *, shortcut: float, epsilon: float) -> Tensor:
    """shortcut x + (x - mean) / sqrt(variance + epsilon), of each clip and row."""
    return _ResidualNorm.apply(x.contiguous(), shortcut, epsilon)  # type: ignore[no-untyped-call]


def _moments_of(x: Tensor) -> Tensor:
    """Room for the mean and the sum of squared deviations of each plane, (2, batch, channels)."""
    return torch.empty(2, *x.shape[:2], dtype=torch.float64)


class _Statistics(NamedTuple):
    """Of a batch: (channels,), float64."""

    mean: Tensor
    inverse_std: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, norm: nn.BatchNorm2d, moments: Tensor, shape: torch.Size) -> "_Statistics":
        """From those of the planes. Updates the normalization's running ones."""
        means, squares = moments
        size = shape[2:].numel()
        count = len(means) * size
        mean = means.mean(dim=0)
        deviations = squares.sum(dim=0) + size * (means - mean).square().sum(dim=0)
        assert norm.running_mean is not None and norm.running_var is not None  # `fits` was asked
        assert norm.num_batches_tracked is not None and norm.momentum is not None
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
        norm.running_var.lerp_((deviations / (count - 1)).to(norm.running_var.dtype), norm.momentum)
        return cls(mean, (deviations / count + norm.eps).rsqrt())


class _Scale(NamedTuple):
    """What a normalization multiplies by and adds, (channels,)."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    inverse_std: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, statistics: _Statistics) -> "_Scale":
        mean, inverse_std = statistics
        scale = weight.double() * inverse_std
        shift = bias.double() - mean * scale
        return cls(scale.to(weight.dtype), shift.to(weight.dtype), mean.to(weight.dtype), inverse_std)

    def backward(self, of_planes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of planes' sums of the gradient behind ReLU, and of it with x - mean: the offset and the slope of
        dx = scale g + offset + slope x, and the gradients of weight and bias."""
        dtype = self.scale.dtype
        sums, products = of_planes.sum(dim=1)
        slope = -self.scale.double() * self.inverse_std.square() * products / count
        offset = -self.scale.double() * sums / count - slope * self.mean.double()
        return offset.to(dtype), slope.to(dtype), (products * self.inverse_std).to(dtype), sums.to(dtype)


class _ScaleRelu(torch.autograd.Function):
    """Planes, and the weight, bias and statistics of their normalization -> planes behind ReLU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, statistics: _Statistics) -> Tensor:
        ctx.scale = _Scale.of(weight, bias, statistics)
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        batch, channels, height, width = x.shape
        run("scale_relu", x.dtype, x, *ctx.scale[:2], y, batch * channels, channels, height * width)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        scale: _Scale = ctx.scale
        gradient, sums, dx = gradient.contiguous(), _moments_of(x), torch.empty_like(x)
        batch, channels, height, width = x.shape
        sizes = batch * channels, channels, height * width
        run("scale_relu_sums", x.dtype, gradient, x, *scale[:3], *sums, *sizes)
        offset, slope, d_weight, d_bias = scale.backward(sums, batch * height * width)
        run("scale_relu_backward", x.dtype, gradient, x, *scale[:2], offset, slope, dx, *sizes)
        return dx, d_weight, d_bias, None


class _AxisMean(torch.autograd.Function):
    """Nothing of the size of x is kept but x itself: what the convolution makes is made again."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, conv: Tensor, weight: Tensor, bias: Tensor, statistics: _Statistics, high: bool
    ) -> Tensor:
        ctx.scale, ctx.high = _Scale.of(weight, bias, statistics), high
        ctx.save_for_backward(x, conv)
        batch, channels, height, width = x.shape
        means = x.new_empty(batch, channels, *((1, width) if high else (height, 1)))
        run("axis_means", x.dtype, x, conv, *ctx.scale[:2], means, *x.shape, x.stride(0), high)
        return means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, conv = ctx.saved_tensors
        scale: _Scale = ctx.scale
        gradient, sums = gradient.contiguous(), _moments_of(x)
        dx, d_conv = x.new_empty(x.shape), x.new_empty(len(x), *conv.shape)
        sizes = *x.shape, x.stride(0), ctx.high
        run("axis_sums", x.dtype, gradient, x, conv, *scale[:3], *sums, *sizes)
        offset, slope, d_weight, d_bias = scale.backward(sums, x.numel() // x.shape[1])
        run("axis_backward", x.dtype, gradient, x, conv, *scale[:2], offset, slope, dx, d_conv, *sizes)
        return dx, d_conv.sum(dim=0), d_weight, d_bias, None, None


class _Halving(torch.autograd.Function):
    """The convolution, and the moments of the planes that it makes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        batch, groups, height, width = x.shape
        y = x.new_empty(batch, len(weight), height // 2, width // 2)
        moments = _moments_of(y)
        sizes = batch, groups, len(weight) // groups, height, width
        run("halving", x.dtype, x, weight, y, *moments, *sizes)
        ctx.save_for_backward(x, weight)
        ctx.mark_non_differentiable(moments)
        return y, moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        batch, groups, height, width = x.shape
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        d_weight = x.new_empty(batch, *weight.shape)
        sizes = batch, groups, len(weight) // groups, height, width
        run("halving_backward", x.dtype, gradient.contiguous(), x, weight, dx, d_weight, *sizes)
        return dx, d_weight.sum(dim=0)


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shortcut: float, epsilon: float) -> Tensor:
        y, rows = torch.empty_like(x), x.new_empty(2, len(x), x.shape[2])
        run("residual_norm", x.dtype, x, y, *rows, *x.shape, shortcut, epsilon)
        ctx.save_for_backward(x, rows)
        ctx.shortcut = shortcut
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, rows = ctx.saved_tensors
        dx = torch.empty_like(x)
        run("residual_norm_backward", x.dtype, gradient.contiguous(), x, *rows, dx, *x.shape, ctx.shortcut)
        return dx, None, None
