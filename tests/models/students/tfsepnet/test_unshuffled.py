"""TF-SepNet without shuffles says what TF-SepNet says."""

from collections.abc import Callable

import pytest
import torch

from adaptf.compression.complexity import measure_complexity
from adaptf.models.students.tfsepnet.network import ChannelShuffle, TfSepNet
from adaptf.models.students.tfsepnet.unshuffled import UnshuffledBlock, runs_of, unshuffled, way

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
def test_the_logits_are_those_of_the_network_with_shuffles(
    shape: dict[str, int], as_trained: Callable[..., TfSepNet]
) -> None:
    network = as_trained(**shape).double()
    logmel = torch.randn(3, 1, 64, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(unshuffled(network)(logmel), network(logmel), rtol=0, atol=1e-9)


def test_no_shuffle_is_left_and_few_slices_take_its_place(as_trained: Callable[..., TfSepNet]) -> None:
    served = unshuffled(as_trained())
    assert not any(isinstance(module, ChannelShuffle) for module in served.modules())
    pieces = [
        len(slices) for block in served.body if isinstance(block, UnshuffledBlock) for slices in block.slices
    ]
    assert len(pieces) == 2 * 9 and max(pieces) == 4


def test_the_network_is_left_as_it_was_and_costs_the_same(as_trained: Callable[..., TfSepNet]) -> None:
    network = as_trained(width=8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    served = unshuffled(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert measure_complexity(served, bands=64, frames=64) == measure_complexity(network, bands=64, frames=64)


def test_runs_are_consecutive_places() -> None:
    assert runs_of([4, 5, 6, 0, 1]) == [slice(4, 7), slice(0, 2)]
    assert runs_of([3]) == [slice(3, 4)]


def test_a_channels_way_is_that_of_the_shuffles() -> None:
    half, shuffle = 4, ChannelShuffle()
    channels = torch.arange(2.0 * half).view(1, -1, 1, 1)
    once = shuffle(channels).flatten().tolist()
    twice = shuffle(shuffle(channels)).flatten().tolist()
    for channel in range(2 * half):
        assert way(channel, half, 2) == (once.index(channel) >= half, twice.index(channel) >= half)
