"""Residual normalization per clip and frequency: 0.1 x + (x - mean) / std (Kim et al., 2021)."""

from typing import Any

import torch
from torch import Tensor, nn

from adaptf.models.kernels.fused import fits, residual_norm

_EPSILON = 1e-5
_SHORTCUT = 0.1


def _sum_over_channels_and_time(x: Tensor) -> Tensor:
    """(batch, channels, frequency, time) -> (batch, 1, frequency, 1), axis by axis, which is faster."""
    return x.sum(dim=3, keepdim=True).sum(dim=1, keepdim=True)


def _scale_and_shift(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(batch, 1, frequency, 1) each: 1 / std, and the factor and offset that normalize by a multiply-add."""
    mean = x.mean(dim=3, keepdim=True).mean(dim=1, keepdim=True)
    squares = torch.linalg.vector_norm(x - mean, dim=3, keepdim=True).square().sum(dim=1, keepdim=True)
    inverse_std = (squares / (x.shape[1] * x.shape[3] - 1) + _EPSILON).rsqrt()
    return inverse_std, inverse_std + _SHORTCUT, -mean * inverse_std


class _ResidualNormalization(torch.autograd.Function):
    """The analytic gradient reads x and the incoming gradient twice, where autograd's chain keeps six copies
    of x.

    With r = 1 / std and h = (x - mean) r over n values of unbiased variance,
    dx = 0.1 g + r (g - mean(g) - h sum(g h) / (n - 1)).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse_std, scale, shift = _scale_and_shift(x)
        ctx.save_for_backward(x, inverse_std, scale, shift)
        return torch.addcmul(shift, x, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, inverse_std, scale, shift = ctx.saved_tensors
        count = x.shape[1] * x.shape[3]
        sum_g = _sum_over_channels_and_time(gradient)
        sum_gx = _sum_over_channels_and_time(gradient * x)
        sum_gh = inverse_std * sum_gx + shift * sum_g
        x_factor = -(inverse_std**2) * sum_gh / (count - 1)
        offset = -inverse_std * sum_g / count - inverse_std * shift * sum_gh / (count - 1)
        return torch.addcmul(offset, gradient, scale).addcmul_(x, x_factor)


class ResidualNormalization(nn.Module):
    """(batch, channels, frequency, time) -> the same shape. It has no parameters."""

    stays_float = True
    """Where the network is quantized: 1 / std may reach 316, too far for 256 steps."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            if fits(x):
                return residual_norm(x, shortcut=_SHORTCUT, epsilon=_EPSILON)
            return _ResidualNormalization.apply(x)  # type: ignore[no-untyped-call]
        _, scale, shift = _scale_and_shift(x)
        return torch.addcmul(shift, x, scale)


class Statistics(nn.Module):
    """(batch, channels, frequency, time) -> the normalization's scale and shift, (batch, 1, frequency, 1)."""

    stays_float = True

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _, scale, shift = _scale_and_shift(x)
        return scale, shift
