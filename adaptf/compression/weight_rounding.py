"""Weights as whole numbers of steps,
rounded so that what comes out of a convolution changes least on clips that were heard."""

import torch
from torch import Tensor, nn

LARGEST_STEP = 63
"""Seven bits. Processors without VNNI add two products of UINT8 inputs and INT8 weights in 16 bits: 2 x 255 x
63 fits there, and 2 x 255 x 127 does not, so that logits would depend on the processor.
The eighth bit is worth little (docs/int8.md)."""

_SMALLEST = 1e-12
"""Largest weight of a channel without weights; of a smaller step there would be no reciprocal."""

_DAMPING = 0.01
"""Of the inputs' mean power, added to each one's:
inputs that hardly differ would otherwise make up for anything."""
_CLIPS = 32
"""Whose inputs of convolutions wider than 1x1 are looked at:
each is there as often as the kernel has places."""


def step_sizes(weight: Tensor) -> Tensor:
    """(out_channels, ...) -> (out_channels,): each channel's largest weight is LARGEST_STEP steps."""
    return weight.abs().flatten(1).amax(dim=1).clamp(min=_SMALLEST) / LARGEST_STEP


def rounded_weight(weight: Tensor, steps: Tensor, moments: Tensor) -> Tensor:
    """(out_channels, ...) -> the same shape, whole numbers of at most LARGEST_STEP of its channel's steps.

    One input after the other is rounded, and those that are left make up for it as well as they can (Frantar
    et al., 2023, arXiv:2210.17323). `moments` (groups, inputs,
    inputs) are the means of the products of two inputs (`input_moments`).
    """
    groups, inputs = moments.shape[:2]
    power = moments.diagonal(dim1=1, dim2=2)
    order = power.mean(dim=0).argsort(descending=True)
    damping = torch.diag_embed(
        _DAMPING * power.mean(dim=1, keepdim=True).expand(-1, inputs) + torch.finfo(torch.float32).tiny
    )
    inverse = torch.linalg.inv((moments + damping)[:, order][:, :, order])
    makes_up = torch.linalg.cholesky(inverse, upper=True)
    left = weight.double().reshape(groups, -1, inputs)[:, :, order].clone()
    size = steps.double().reshape(groups, -1)
    rounded = torch.empty_like(left)
    for place in range(inputs):
        whole = (left[:, :, place] / size).round().clamp(-LARGEST_STEP, LARGEST_STEP)
        rounded[:, :, place] = whole * size
        error = (left[:, :, place] - rounded[:, :, place]) / makes_up[:, place, place, None]
        left[:, :, place:] -= error[:, :, None] * makes_up[:, None, place, place:]
    return rounded[:, :, order.argsort()].view_as(weight).to(weight.dtype)


def input_moments(
    x: Tensor, kernel: tuple[int, ...], *, stride: tuple[int, ...], padding: tuple[int, ...], groups: int
) -> Tensor:
    """Means of the products of two of the values that a convolution of x (batch, channels, ...) multiplies at
    a time.

    (groups, inputs, inputs), where inputs are the channels of a group times the places of the kernel,
    in the order of weights.
    """
    if any(side > 1 for side in kernel):
        x = nn.functional.unfold(x[:_CLIPS], kernel, padding=padding, stride=stride)
    of_groups = x.flatten(2).unflatten(1, (groups, -1)).transpose(0, 1).transpose(1, 2).flatten(2).double()
    return of_groups @ of_groups.transpose(1, 2) / of_groups.shape[2]
