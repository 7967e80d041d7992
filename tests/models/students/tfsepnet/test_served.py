"""TF-SepNet as it is served says what TF-SepNet says."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from adaptf.models.residual_normalization import ResidualNormalization
from adaptf.models.students.tfsepnet.network import ConvNormRelu, TfSepNet
from adaptf.models.students.tfsepnet.served import NormalizedConvolution, served

pytestmark = pytest.mark.arithmetic


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"width": 4, "depth": 2},
        {"width": 8, "depth": 4},
        {"width": 16, "depth": 9},
        {"width": 12, "depth": 16},
    ],
    ids=str,
)
def test_the_logits_are_those_of_the_trained_network(
    shape: dict[str, int], as_trained: Callable[..., TfSepNet]
) -> None:
    network = as_trained(**shape).double()
    logmel = torch.randn(3, 1, 64, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(served(network)(logmel), network(logmel), rtol=0, atol=1e-9)


def test_every_convolution_is_a_plain_or_a_depthwise_one(as_trained: Callable[..., TfSepNet]) -> None:
    convolutions = [module for module in served(as_trained()).modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.groups == 1 or conv.weight.shape[:2] == (conv.groups, 1) for conv in convolutions)
    assert len(convolutions) == 46


def test_the_weights_are_as_many_as_before(as_trained: Callable[..., TfSepNet]) -> None:
    def weights(network: TfSepNet) -> int:
        return sum(module.weight.numel() for module in network.modules() if isinstance(module, nn.Conv2d))

    assert weights(served(as_trained())) == weights(TfSepNet(classes=10)) == 121_408


def test_the_network_is_left_as_it_was(as_trained: Callable[..., TfSepNet]) -> None:
    network = as_trained(width=8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    served(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_convolution_is_of_the_input_and_not_of_what_normalization_makes_of_it() -> None:
    torch.manual_seed(0)
    block = ConvNormRelu(8, 4).eval()
    nn.init.normal_(block.norm.bias)
    seen: list[torch.Tensor] = []
    moved = NormalizedConvolution(block)
    moved.conv.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = torch.rand(2, 8, 16, 6) * torch.logspace(-3, 1, 16)[:, None]
    with torch.no_grad():
        torch.testing.assert_close(moved(x), block(ResidualNormalization()(x)), rtol=1e-4, atol=1e-4)
    assert torch.equal(seen[0], x)
