"""The OpenVINO form of a quantized network: the same program with the same integers, in less time on x86 processors."""

import operator
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, fx

from adaptf.compression.int8 import CONVOLUTION, DYNAMIC_BATCH, errors_only, example_of

GROUPS = 6
"""Place of the groups among the arguments of a convolution."""


def save_openvino(graph: fx.GraphModule, clip_shape: tuple[int, ...], path: Path) -> None:
    """Writes the program of a converted graph, weights not folded yet, to `path` (.xml) and the .bin file beside it.

    `clip_shape` is (1, bands, frames). Folded weights would be INT8 constants, behind which OpenVINO does not recognise a
    quantized convolution; a batch that is not fixed does not compile. The .xml comes last: without it there is no such form.
    """
    import openvino

    with errors_only():
        graph = dense_group_convolutions(with_exact_weights(deepcopy(graph)))
        graph.graph.eliminate_dead_code()
        graph.recompile()
        program = torch.export.export(graph, example_of(clip_shape), dynamic_shapes=DYNAMIC_BATCH, strict=False)
        model = openvino.convert_model(program)
    model.reshape([1, *clip_shape])
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".openvino") as folder:
        openvino.save_model(model, Path(folder) / path.name, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            (Path(folder) / path.with_suffix(suffix).name).replace(path.with_suffix(suffix))


def dense_group_convolutions(graph: fx.GraphModule) -> fx.GraphModule:
    """Writes convolutions in groups of several output channels as ungrouped ones, whose other weights are zero.

    OpenVINO takes 650 us for the stem's 32 groups of 4 channels and 200 us for the 32 times as many products without groups:
    for INT8 it has fast kernels for depthwise and for ungrouped convolutions only.
    """
    for node in graph.graph.find_nodes(op="call_function", target=CONVOLUTION):
        groups = node.args[GROUPS] if len(node.args) > GROUPS else 1
        weight = value_of(weight_of(node), graph)
        if groups not in (1, weight.shape[0]):
            replace_weight(graph, node, dense_weight(weight, groups))
            node.args = (*node.args[:GROUPS], 1)
    return graph


def with_exact_weights(graph: fx.GraphModule) -> fx.GraphModule:
    """Puts what a weight's quantization makes of it, a whole number of steps, in its place.

    A channel's extreme lies just between two steps, and OpenVINO rounds it up where torch rounds it down: one step in the
    largest weight of many channels moved logits as much as quantizing did.
    """
    for node in graph.graph.find_nodes(op="call_function", target=CONVOLUTION):
        replace_weight(graph, node, value_of(node.all_input_nodes[1], graph))
    return graph


def weight_of(convolution: fx.Node) -> fx.Node:
    """Where a convolution's weight is read: before it is quantized and dequantized."""
    node = convolution.all_input_nodes[1]
    while node.op != "get_attr":
        node = node.all_input_nodes[0]
    return node


def value_of(node: fx.Node, graph: fx.GraphModule) -> Tensor:
    """Of a node that depends on stored tensors alone."""
    if node.op == "get_attr":
        stored: Tensor = operator.attrgetter(str(node.target))(graph)
        return stored.detach()
    calculate: Callable[..., Tensor] = node.target  # type: ignore[assignment]
    return calculate(*fx.map_arg(node.args, lambda one: value_of(one, graph)), **node.kwargs)


def replace_weight(graph: fx.GraphModule, convolution: fx.Node, weight: Tensor) -> None:
    """Under a name of its own, because two convolutions may read the same tensor."""
    stored = weight_of(convolution)
    name = f"{convolution.name}_served_weight"
    graph.register_buffer(name, weight)
    with graph.graph.inserting_before(stored):
        new = graph.graph.get_attr(name)
    convolution.all_input_nodes[1].all_input_nodes[0].replace_input_with(stored, new)


def dense_weight(weight: Tensor, groups: int) -> Tensor:
    """(out, in / groups, ...) -> (out, in, ...) with zeros outside of each channel's own group."""
    out, in_group = weight.shape[:2]
    dense = weight.new_zeros(out, in_group * groups, *weight.shape[2:])
    columns = torch.arange(in_group) + (torch.arange(out) // (out // groups) * in_group)[:, None]
    dense[torch.arange(out)[:, None], columns] = weight.detach()
    return dense
