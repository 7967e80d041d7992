"""Weights and biases of a quantized graph, corrected for what rounding does to calibration clips."""

import operator
from typing import Any

import torch
from torch import Tensor, fx

from adaptf.compression.int8 import CONVOLUTION, quantized_operators
from adaptf.compression.weight_rounding import input_moments, rounded_weight, step_sizes

_BIAS = 2
"""Place of the bias among the arguments of a convolution."""
_STEPS = 1
"""Place of the sizes of steps among the arguments of a weight's quantization."""
_DEFAULTS: tuple[Any, ...] = (None, None, None, (1, 1), (0, 0), (1, 1), 1)
"""Of the arguments of a convolution: input, weight, bias, stride, padding, dilation, groups."""


@torch.no_grad()
def correct(graph: fx.GraphModule, logmel: Tensor) -> None:
    """In place, for a converted graph whose weights are kept as floats,
    by log-mels (batch, 1, bands, frames) of calibration.

    Weights become whole numbers of steps (`weight_rounding`), the biases of convolutions are moved so that
    rounding shifts no channel's mean (Nagel et al., 2019, arXiv:1906.04721), and all biases become values of
    FP16. A convolution's error is measured behind convolutions that are corrected already.
    All clips are run at once: some 4 MB each.
    """
    _read_weights_rounded(graph)
    _round_biases(graph)
    means = _FloatMeans(graph)
    means.run(logmel)
    _Correction(graph, means.of_channels).run(logmel)


def _read_weights_rounded(graph: fx.GraphModule) -> None:
    """Whatever else reads a convolution's weight gets what the convolution gets."""
    for rounded in _rounded_weights(graph):
        quantize = rounded.all_input_nodes[0]
        stored = quantize.all_input_nodes[0]
        others = [user for user in stored.users if user is not quantize]
        for user in others:
            user.replace_input_with(stored, rounded)
    graph.recompile()


def _rounded_weights(graph: fx.GraphModule) -> list[fx.Node]:
    """What convolutions read for their weights, of those that were quantized."""
    convolutions = graph.graph.find_nodes(op="call_function", target=CONVOLUTION)
    dequantize = quantized_operators().dequantize_per_channel.default
    return [read for read in (one.all_input_nodes[1] for one in convolutions) if read.target == dequantize]


def _round_biases(graph: fx.GraphModule) -> None:
    """Those of no convolution are not moved, and become values of FP16 at once."""
    for node in graph.graph.find_nodes(op="get_attr"):
        if is_bias(node, graph):
            value = operator.attrgetter(str(node.target))(graph)
            value.data = value.data.half().float()


def is_bias(node: fx.Node, graph: fx.GraphModule) -> bool:
    """Whether a node reads what is added to channels: neither weights nor what belongs to a quantization."""
    of_quantization = {
        quantized_operators().dequantize_per_channel.default,
        quantized_operators().quantize_per_channel.default,
    }
    value = operator.attrgetter(str(node.target))(graph)
    return (
        value.dtype == torch.float32
        and value.ndim > 0
        and not of_quantization & {user.target for user in node.users}
    )


class _FloatMeans(fx.Interpreter):
    """Runs a quantized graph without its roundings, and keeps the mean of each convolution's channels."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.of_channels: dict[str, Tensor] = {}
        known = quantized_operators()
        of_activations = (known.quantize_per_tensor, known.dequantize_per_tensor)
        of_weights = (known.quantize_per_channel, known.dequantize_per_channel)
        self.roundings = {operator.default for operator in (*of_activations, *of_weights)}

    def run_node(self, node: fx.Node) -> Any:
        if node.target in self.roundings:
            return self.env[node.all_input_nodes[0]]
        result = super().run_node(node)
        if node.target == CONVOLUTION:
            self.of_channels[node.name] = channel_means(result)
        return result


class _Correction(fx.Interpreter):
    """Rounds each weight and moves each bias before the convolutions that follow see what comes out."""

    def __init__(self, graph: fx.GraphModule, means: dict[str, Tensor]) -> None:
        super().__init__(graph)
        self.means = means
        self.dequantize = quantized_operators().dequantize_per_channel.default

    def run_node(self, node: fx.Node) -> Any:
        if node.target != CONVOLUTION:
            return super().run_node(node)
        if node.all_input_nodes[1].target == self.dequantize:
            self.round_weight(node)
        result = super().run_node(node)
        if len(node.all_input_nodes) <= _BIAS:
            return result
        bias = self.stored(node.all_input_nodes[_BIAS])
        moved = (bias + self.means[node.name] - channel_means(result)).half().float()
        error = moved - bias
        bias.copy_(moved)
        return result + error[:, None, None]

    def round_weight(self, convolution: fx.Node) -> None:
        """In the graph, and for whatever is run from here on."""
        read = convolution.all_input_nodes[1]
        quantize = read.all_input_nodes[0]
        weight, steps = (self.stored(quantize.all_input_nodes[place]) for place in (0, _STEPS))
        given, _ = self.fetch_args_kwargs_from_env(convolution)
        x, _, _, stride, padding, _, groups = (*given, *_DEFAULTS[len(given) :])
        steps.copy_(step_sizes(weight))
        moments = input_moments(
            x, tuple(weight.shape[2:]), stride=tuple(stride), padding=tuple(padding), groups=groups
        )
        weight.copy_(rounded_weight(weight, steps, moments))
        self.env[read] = weight

    def stored(self, node: fx.Node) -> Tensor:
        """The graph's own tensor that a node reads."""
        tensor: Tensor = operator.attrgetter(str(node.target))(self.module)
        return tensor.data


def channel_means(x: Tensor) -> Tensor:
    """(batch, channels, frequency, time) -> (channels,)"""
    return x.mean(dim=(0, 2, 3))
