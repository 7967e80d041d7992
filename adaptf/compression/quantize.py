"""Static INT8 quantization by Intel Neural Compressor. The router needs none of it: loading is apart, in `int8.py`."""

import itertools
import operator
import warnings
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from adaptf.compression.int8 import CONVOLUTION, errors_only
from adaptf.errors import UserError
from adaptf.models.residual_normalization import ResidualNormalization

DYNAMIC_BATCH = ({0: Dim("batch", min=1)},)
"""Of (batch, 1, bands, frames)."""


def quantize_int8(network: nn.Module, calibration: Iterable[Tensor]) -> ExportedProgram:
    """A static INT8 program of a network: log-mel (batch, 1, bands, frames) -> logits (batch, classes), any batch size.

    Each convolution gets INT8 weights with a scale per output channel, an FP16 bias with the batch normalization folded
    in, and UINT8 input; all else stays float. The ranges of the inputs come from the batches of log-mels in
    `calibration`, whatever their order. The network itself is left as it was.

    Raises ValueError without a calibration batch, or where two batches hold clips of different shapes.
    """
    batches = iter(calibration)
    first = next(batches, None)
    if first is None:
        raise UserError("calibration should hold at least one batch of log-mels (batch, 1, bands, frames), got none")
    example = (torch.zeros(2, *first.shape[1:]),)  # a batch of one would make the batch size static
    with errors_only(), warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message="The input of maxpool2d is not quantized")
        from neural_compressor.torch.quantization import convert, prepare

        observed = prepare(traced(network, example), configuration(network), example_inputs=example)
        for clips in itertools.chain([first], batches):
            if clips.shape[1:] != first.shape[1:]:
                shapes = f"{tuple(clips.shape)} after {tuple(first.shape)}"
                raise UserError(f"calibration batches should hold clips of one shape, got {shapes}")
            observed(clips.cpu())
        return packed(convert(observed), example)


def traced(network: nn.Module, example: tuple[Tensor, ...]) -> fx.GraphModule:
    """The graph of a copy of the network, as Neural Compressor's own export leaves it but in a third of the time."""
    copy = deepcopy(network).cpu().eval()
    graph = torch.export.export(copy, example, dynamic_shapes=DYNAMIC_BATCH, strict=False).module()
    vars(graph).update(_exported=True, dynamic_shapes=DYNAMIC_BATCH)
    return graph


def configuration(network: nn.Module) -> Any:
    """Neural Compressor's configuration: INT8 weights per channel, inputs ranged by histogram."""
    from neural_compressor.torch.quantization import INT8StaticQuantConfig

    # "minmax" is a moving average that hardly moves after the first batch: the order of the clips would decide.
    config = INT8StaticQuantConfig(w_granularity="per_channel", act_algo="kl")
    # The quantizer takes products too, here of the statistics: 1 / std may reach 316, too far for 256 steps.
    in_float = INT8StaticQuantConfig(w_dtype="fp32", act_dtype="fp32")
    for name, module in network.named_modules():
        if isinstance(module, ResidualNormalization):
            config.set_local(name, in_float)
    return config


def packed(graph: fx.GraphModule, example: tuple[Tensor, ...]) -> ExportedProgram:
    """A converted graph whose weights are kept as INT8 and biases as FP16, with nothing beside them."""
    from torchao.quantization.pt2e.constant_fold import constant_fold

    constant_fold(graph)
    for convolution in graph.graph.find_nodes(op="call_function", target=CONVOLUTION):
        keep_bias_as_fp16(graph, convolution)
    graph = fx.GraphModule(graph, graph.graph)  # takes along what the graph reads: the float weights stay behind
    program = torch.export.export(graph, example, dynamic_shapes=DYNAMIC_BATCH, strict=False)
    program.example_inputs = None
    for node in program.graph.nodes:  # stack traces are half of a file, and tell where the code lies on this machine
        node.meta = {key: node.meta[key] for key in node.meta.keys() & {"val"}}
    return program


def keep_bias_as_fp16(graph: fx.GraphModule, convolution: fx.Node) -> None:
    """Puts a bias in FP16, made float again when run, in the place of a convolution's FP32 bias."""
    for bias in convolution.all_input_nodes[2:]:
        name = f"{convolution.name}_bias"
        graph.register_buffer(name, operator.attrgetter(str(bias.target))(graph).detach().half())
        with graph.graph.inserting_before(convolution):
            half = graph.graph.get_attr(name)
            single = graph.graph.call_function(torch.ops.aten._to_copy.default, (half,), {"dtype": torch.float32})
        convolution.replace_input_with(bias, single)
        graph.graph.erase_node(bias)
