"""Weights as whole numbers of steps that change little of what comes out."""

import pytest
import torch
from torch import nn

from adaptf.compression.weight_rounding import LARGEST_STEP, input_moments, rounded_weight, step_sizes


def convolution(groups: int, kernel: tuple[int, int]) -> nn.Conv2d:
    torch.manual_seed(0)
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Conv2d(12, 24, kernel, stride=2, padding=padding, groups=groups, bias=False).requires_grad_(
        False
    )


def heard() -> torch.Tensor:
    """(16, 12, 20, 10) with neighbours alike and none below zero, as behind a ReLU."""
    smooth = nn.functional.avg_pool2d(
        torch.randn(16, 12, 22, 12, generator=torch.Generator().manual_seed(1)), 3, stride=1
    )
    return (smooth + smooth.mean(dim=1, keepdim=True)).relu()


@pytest.mark.parametrize(
    ("groups", "kernel"), [(1, (1, 1)), (1, (3, 3)), (12, (3, 3)), (12, (3, 1)), (3, (1, 3))], ids=str
)
def test_rounded_weights_are_whole_steps_and_better_than_the_nearest_ones(
    groups: int, kernel: tuple[int, int]
) -> None:
    layer, x = convolution(groups, kernel), heard()
    exact, weight = layer(x), layer.weight.clone()
    steps = step_sizes(weight)
    moments = input_moments(x, kernel, stride=layer.stride, padding=tuple(layer.padding), groups=groups)
    assert moments.shape == (
        groups,
        12 // groups * kernel[0] * kernel[1],
        12 // groups * kernel[0] * kernel[1],
    )
    found = rounded_weight(weight, steps, moments)
    numbers = found / steps[:, None, None, None]
    torch.testing.assert_close(numbers, numbers.round(), rtol=0, atol=1e-4)
    assert numbers.abs().max() <= LARGEST_STEP + 1e-4

    def error(of: torch.Tensor) -> float:
        layer.weight.copy_(of)
        return float((layer(x) - exact).square().mean())

    nearest = (weight / steps[:, None, None, None]).round() * steps[:, None, None, None]
    assert error(found) < 0.9 * error(nearest)


def test_moments_are_means_of_products_of_what_the_kernel_covers() -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    moments = input_moments(x, (1, 3), stride=(1, 1), padding=(0, 1), groups=1)[0]
    covered = torch.tensor([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 0.0]]).double()
    torch.testing.assert_close(moments, covered.T @ covered / 3)


def test_inputs_that_are_never_there_and_channels_without_weights_harm_nothing() -> None:
    weight = torch.randn(4, 6, 1, 1)
    weight[2] = 0
    x = torch.rand(3, 6, 5, 5)
    x[:, 1] = 0
    moments = input_moments(x, (1, 1), stride=(1, 1), padding=(0, 0), groups=1)
    found = rounded_weight(weight, step_sizes(weight), moments)
    assert found.isfinite().all() and not found[2].any()
    assert (found - weight).abs().max() < 0.2
