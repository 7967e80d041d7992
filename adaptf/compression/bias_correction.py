"""Bias correction: each bias is moved so that rounding shifts no channel's mean (Nagel et al., 2019, arXiv:1906.04721)."""

from typing import Any

import torch
from torch import Tensor, fx

from adaptf.compression.int8 import CONVOLUTION, quantized_operators

BIAS = 2
"""Place of the bias among the arguments of a convolution."""


@torch.no_grad()
def correct_biases(graph: fx.GraphModule, logmel: Tensor) -> None:
    """In place, for a converted graph whose weights are kept as floats, by log-mels (batch, 1, bands, frames) of calibration.

    A convolution's error is measured behind convolutions that are corrected already. All clips are run at once: some 4 MB each.
    """
    means = _FloatMeans(graph)
    means.run(logmel)
    _Correction(graph, means.of_channels).run(logmel)


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
    """Moves each bias before the convolutions that follow see what comes out."""

    def __init__(self, graph: fx.GraphModule, means: dict[str, Tensor]) -> None:
        super().__init__(graph)
        self.means = means

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        if node.target == CONVOLUTION:
            error = self.means[node.name] - channel_means(result)
            self.env[node.all_input_nodes[BIAS]].data += error
            result = result + error[:, None, None]
        return result


def channel_means(x: Tensor) -> Tensor:
    """(batch, channels, frequency, time) -> (channels,)"""
    return x.mean(dim=(0, 2, 3))
