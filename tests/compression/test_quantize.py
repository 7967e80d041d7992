"""The search for a quantization that loses little, by Neural Compressor's autotune."""

from collections.abc import Callable
from operator import attrgetter

import pytest
import torch
from torch import Tensor, fx

from adaptf.compression import quantize
from adaptf.compression.correction import correct
from adaptf.compression.int8 import CONVOLUTION, for_running
from adaptf.compression.quantize import CANDIDATES, Ranges, quantize_int8, tune_int8
from adaptf.data.shared_objects import SharedObjects
from adaptf.errors import UserError
from adaptf.models.students.tfsepnet.network import TfSepNet

pytestmark = pytest.mark.slow

torch.manual_seed(0)
NETWORK = TfSepNet(classes=3, width=8, depth=3)
HISTOGRAM, EXTREMES, SYMMETRIC = CANDIDATES[0], Ranges("minmax", False), Ranges("kl", True)


@pytest.fixture(scope="module")
def clips() -> Tensor:
    return torch.randn(24, 1, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tried() -> Callable[..., tuple[Callable[[object], float], list[object]]]:
    """A closeness that has these values in turn, and the networks that it was asked about."""

    def in_turn(*values: float) -> tuple[Callable[[object], float], list[object]]:
        seen: list[object] = []

        def closeness(network: object) -> float:
            seen.append(network)
            return values[len(seen) - 1]

        return closeness, seen

    return in_turn


def test_the_first_that_is_close_enough_is_taken(clips: Tensor, tried) -> None:
    closeness, seen = tried(0.8, 0.992, 1.0)
    found = tune_int8(
        NETWORK,
        clips.split(8),
        closeness,
        tolerable_distance=0.01,
        candidates=[HISTOGRAM, EXTREMES, SYMMETRIC],
    )
    assert (found.ranges, found.trials, len(seen)) == (EXTREMES, 2, 2)


def test_the_closest_is_taken_where_none_is_close_enough_and_is_the_one_that_it_says(
    clips: Tensor, tried
) -> None:
    closeness, _ = tried(0.6, 0.9, 0.8)
    found = tune_int8(
        NETWORK,
        clips.split(8),
        closeness,
        tolerable_distance=0.01,
        candidates=[HISTOGRAM, EXTREMES, SYMMETRIC],
    )
    assert (found.ranges, found.trials) == (EXTREMES, 3)
    expected = quantize_int8(NETWORK, clips.split(8), EXTREMES)
    other = quantize_int8(NETWORK, clips.split(8), HISTOGRAM)
    with torch.no_grad():
        torch.testing.assert_close(found.graph(clips), expected.graph(clips), rtol=0, atol=1e-4)
        assert (found.graph(clips) - other.graph(clips)).abs().max() > 1e-3


def test_a_network_that_is_nowhere_near_is_quantized_all_the_same(clips: Tensor, tried) -> None:
    closeness, _ = tried(-3.0)
    assert tune_int8(NETWORK, [clips], closeness, tolerable_distance=0.01, candidates=[HISTOGRAM]).trials == 1


def test_what_is_asked_about_are_int8_networks(clips: Tensor) -> None:
    logits: list[Tensor] = []

    def closeness(network: Callable[[Tensor], Tensor]) -> float:
        logits.append(network(clips))
        return 1.0

    found = tune_int8(NETWORK, [clips], closeness, tolerable_distance=0.01)
    with torch.no_grad():
        (said,) = logits
        torch.testing.assert_close(said, for_running(found.graph)(clips), rtol=0, atol=1e-5)
        assert not torch.allclose(said, NETWORK.eval()(clips), rtol=0, atol=1e-5)


def test_networks_of_one_program_share_the_graph_but_not_the_weights(clips: Tensor) -> None:
    shared = SharedObjects()

    def quantized(network: TfSepNet, shared: SharedObjects) -> Tensor:
        found = tune_int8(
            network, [clips], lambda _: 1.0, tolerable_distance=0.0, shared=shared, program="small"
        )
        with torch.no_grad():
            logits: Tensor = found.graph(clips)
        return logits

    of_first = quantized(NETWORK, shared)
    other = TfSepNet(classes=3, width=8, depth=3)
    of_other = quantized(other, shared)
    assert torch.equal(of_other, quantized(other, SharedObjects()))
    assert not torch.allclose(of_other, of_first, rtol=0, atol=1e-3)
    assert torch.equal(quantized(NETWORK, shared), of_first)


def test_without_clips_of_one_shape_or_candidates_there_is_nothing_to_try(clips: Tensor, tried) -> None:
    closeness, _ = tried(1.0)
    with pytest.raises(UserError, match="at least one batch"):
        tune_int8(NETWORK, [], closeness, tolerable_distance=0.01)
    with pytest.raises(
        UserError, match=r"\(1, 16, 9\) after \(1, 16, 8\)|\(2, 1, 16, 9\) after \(2, 1, 16, 8\)"
    ):
        tune_int8(
            NETWORK, [torch.zeros(2, 1, 16, 8), torch.zeros(2, 1, 16, 9)], closeness, tolerable_distance=0.01
        )
    with pytest.raises(UserError, match="at least one way"):
        tune_int8(NETWORK, [clips], closeness, tolerable_distance=0.01, candidates=[])


def converted(clips: Tensor, monkeypatch: pytest.MonkeyPatch) -> fx.GraphModule:
    """As Neural Compressor leaves it, with narrow ranges from a single quiet clip,
    which shift the means of loud ones."""
    with monkeypatch.context() as patch:
        patch.setattr(quantize, "correct", lambda graph, clips: None)
        return quantize_int8(NETWORK, [clips[:1] * 0.2]).graph


def test_correction_brings_each_channels_mean_back(clips: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, exact = converted(clips, monkeypatch), NETWORK.eval()(clips).detach().mean(dim=0)

    def shift() -> float:
        with torch.no_grad():
            return (graph(clips).mean(dim=0) - exact).abs().max().item()

    before = shift()
    correct(graph, clips)
    assert before > 1e-2
    assert shift() < 2e-3  # biases are of FP16


def test_every_weight_is_a_whole_number_of_at_most_63_steps(clips: Tensor) -> None:
    """So that two products fit into 16 bits, in which older processors add them."""
    graph = quantize_int8(NETWORK, [clips]).graph
    for node in graph.graph.find_nodes(op="call_function", target=CONVOLUTION):
        weight, steps = (
            attrgetter(str(read.target))(graph)
            for read in node.all_input_nodes[1].all_input_nodes[0].all_input_nodes[:2]
        )
        numbers = weight.flatten(1) / steps[:, None]
        torch.testing.assert_close(numbers, numbers.round(), rtol=0, atol=1e-4)
        assert 50 < numbers.abs().max() <= 63.001


def test_what_else_reads_a_weight_reads_it_rounded(clips: Tensor) -> None:
    """The sum over a weight's inputs,
    which stands for the shift of the normalization that comes after the convolution."""
    graph = quantize_int8(NETWORK, [clips]).graph
    (total,) = [
        node
        for node in graph.graph.nodes
        if node.target == torch.ops.aten.sum.dim_IntList
        and node.args[1] == [1]
        and not node.kwargs
        and len(node.args) == 2
    ]
    assert "dequantize_per_channel" in str(total.args[0].target)


def test_every_bias_is_a_value_of_fp16(clips: Tensor) -> None:
    graph = quantize_int8(NETWORK, [clips]).graph
    convolutions = graph.graph.find_nodes(op="call_function", target=CONVOLUTION)
    biases = [
        attrgetter(str(node.target))(graph) for found in convolutions for node in found.all_input_nodes[2:]
    ]
    assert len(biases) > 2 and all(torch.equal(bias, bias.half().float()) for bias in biases)
