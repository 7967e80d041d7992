"""Static INT8 networks: made by Neural Compressor, kept as .pt2 files, run a few clips at a time."""

import io
import itertools
import logging
import operator
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from adaptf.models.residual_normalization import ResidualNormalization

CLIPS_AT_ONCE = 8
"""More would not stay in the processor's caches: 256 at once take up to twice the time per clip."""

DYNAMIC_BATCH = ({0: Dim("batch", min=1)},)
"""Of (batch, 1, bands, frames)."""

CONVOLUTION = torch.ops.aten.conv2d.default
NOISY_LOGGERS = ("neural_compressor", "torchao", "torch.utils._pytree", "torch.export")
"""They report progress, unused GPU extensions and torch's own deprecations as warnings."""


def quantize_int8(network: nn.Module, calibration: Iterable[Tensor]) -> ExportedProgram:
    """A static INT8 program of a network: log-mel (batch, 1, bands, frames) -> logits (batch, classes), any batch size.

    Each convolution gets INT8 weights, one scale per output channel, an FP16 bias with the batch normalization folded in,
    and UINT8 input; all else stays float. The ranges of the inputs come from the calibration's batches (batch, 1, bands,
    frames), whatever their order. The network itself is left as it was.

    Raises ValueError without a calibration batch or where the batches differ in shape.
    """
    batches = iter(calibration)
    first = next(batches, None)
    if first is None:
        raise ValueError("calibration should hold at least one batch of log-mels (batch, 1, bands, frames), got none")
    example = (torch.zeros(2, *first.shape[1:]),)  # a batch of one would make the batch size static
    with errors_only(), torch.no_grad():
        from neural_compressor.torch.quantization import convert, prepare

        observed = prepare(traced(network, example), configuration(network), example_inputs=example)
        for clips in itertools.chain([first], batches):
            if clips.shape[1:] != first.shape[1:]:
                raise ValueError(f"calibration should hold one shape of clip, got {clips.shape} after {first.shape}")
            observed(clips.cpu())
        return packed(convert(observed), example)


def traced(network: nn.Module, example: tuple[Tensor, ...]) -> fx.GraphModule:
    """A graph of a copy of the network, as Neural Compressor's own export leaves it but in a third of the time."""
    copy = deepcopy(network).cpu().eval()
    graph = torch.export.export(copy, example, dynamic_shapes=DYNAMIC_BATCH, strict=False).module()
    graph._exported = True
    graph.dynamic_shapes = DYNAMIC_BATCH
    return graph


def configuration(network: nn.Module) -> Any:
    """Neural Compressor's configuration: per-channel INT8 weights, activations ranged by histogram."""
    from neural_compressor.torch.quantization import INT8StaticQuantConfig

    # "minmax" is a moving average that hardly moves after the first batch: the order of the clips would decide.
    config = INT8StaticQuantConfig(w_granularity="per_channel", act_algo="kl")
    # The quantizer would take the products of the statistics too, whose range is that of 1 / std: up to 316.
    in_float = INT8StaticQuantConfig(w_dtype="fp32", act_dtype="fp32")
    for name, module in network.named_modules():
        if isinstance(module, ResidualNormalization):
            config.set_local(name, in_float)
    return config


def packed(graph: fx.GraphModule, example: tuple[Tensor, ...]) -> ExportedProgram:
    """A converted graph whose weights are stored as INT8 and biases as FP16, with nothing beside them."""
    from torchao.quantization.pt2e.constant_fold import constant_fold

    constant_fold(graph)
    for convolution in graph.graph.find_nodes(op="call_function", target=CONVOLUTION):
        store_bias_as_fp16(graph, convolution)
    graph = fx.GraphModule(graph, graph.graph)  # takes along what the graph reads: the float weights stay behind
    program = torch.export.export(graph, example, dynamic_shapes=DYNAMIC_BATCH, strict=False)
    program.example_inputs = None
    for node in program.graph.nodes:  # stack traces are half of the file, and tell the paths of this machine
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    return program


def store_bias_as_fp16(graph: fx.GraphModule, convolution: fx.Node) -> None:
    bias = convolution.args[2]
    assert isinstance(bias, fx.Node)
    name = f"{convolution.name}_bias"
    graph.register_buffer(name, graph.get_parameter(str(bias.target)).detach().half())
    with graph.graph.inserting_before(convolution):
        half = graph.graph.get_attr(name)
        single = graph.graph.call_function(torch.ops.prims.convert_element_type.default, (half, torch.float32))
    convolution.update_arg(2, single)
    graph.graph.erase_node(bias)


def int8_convolutions(program: ExportedProgram) -> tuple[int, int]:
    """How many convolutions have INT8 weights and UINT8 input, and how many there are."""
    convolutions = program.graph.find_nodes(op="call_function", target=CONVOLUTION)
    return sum(is_int8(convolution) for convolution in convolutions), len(convolutions)


def is_int8(convolution: fx.Node) -> bool:
    quantized = quantized_operators()
    activation, weight = convolution.all_input_nodes[:2]
    return (
        activation.target == quantized.dequantize_per_tensor.default
        and weight.target == quantized.dequantize_per_channel.default
        and weight.all_input_nodes[0].op == "placeholder"
        and weight.all_input_nodes[0].meta["val"].dtype == torch.int8
    )


def save_int8(program: ExportedProgram, path: Path | str) -> None:
    """Writes a program to a .pt2 file, which is there completely or not at all."""
    path = Path(path)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(buffer.getvalue())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load_int8(path: Path | str) -> "Int8Network":
    """The network of a file written by `save_int8`. A .pt2 file can run code when it is read: load your own only.

    Raises ValueError where the file is missing, damaged or something else, or not all of its convolutions are INT8.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} should be an INT8 network (.pt2), but there is no such file")
    quantized_operators()
    try:
        with errors_only(), path.open("rb") as file:
            program = torch.export.load(file)
    except Exception as error:  # of any kind, from the zip reader to the graph's deserializer
        raise ValueError(f"{path} is damaged or not a .pt2 file: {error}") from error
    int8, convolutions = int8_convolutions(program)
    if int8 < convolutions or not int8:
        raise ValueError(f"{path} should hold an INT8 network, but {int8} of its {convolutions} convolutions are INT8")
    return Int8Network(program)


class Int8Network(nn.Module):
    """Log-mel (batch, 1, bands, frames) -> logits (batch, classes), `CLIPS_AT_ONCE` clips at a time."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        (name,) = program.graph_signature.user_inputs
        (logmel,) = (node for node in program.graph.nodes if node.name == name)
        self.clip_shape = tuple(logmel.meta["val"].shape[1:])
        self.graph = for_running(program)

    def forward(self, logmel: Tensor) -> Tensor:
        if logmel.shape[1:] != self.clip_shape or not len(logmel):
            expected = ", ".join(str(size) for size in ("batch", *self.clip_shape))
            raise ValueError(f"log-mel should be ({expected}), got {tuple(logmel.shape)}")
        return torch.cat([self.graph(clips) for clips in logmel.split(CLIPS_AT_ONCE)])


def for_running(program: ExportedProgram) -> fx.GraphModule:
    """A program's graph with equal results in less time: weights made float once, inputs rounded in one copy."""
    module = program.module(check_guards=False)
    graph = fx.GraphModule(module, module.graph)  # unlike an exported module, it allows eval()
    fold_constants(graph)
    for dequantize in graph.graph.find_nodes(
        op="call_function", target=quantized_operators().dequantize_per_tensor.default
    ):
        quantize = dequantize.all_input_nodes[0]
        with graph.graph.inserting_before(dequantize):
            dequantize.replace_all_uses_with(graph.graph.call_function(rounded, quantize.args[:-1]))
    graph.graph.eliminate_dead_code()
    return fx.GraphModule(graph, graph.graph)


def fold_constants(graph: fx.GraphModule) -> None:
    """Replaces what depends on stored tensors alone by its value."""
    constants: dict[fx.Node, Tensor] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            constants[node] = operator.attrgetter(node.target)(graph)
        elif node.op == "call_function" and node.all_input_nodes and constants.keys() >= set(node.all_input_nodes):
            constants[node] = node.target(*fx.map_arg(node.args, constants.__getitem__))
            name = f"folded_{node.name}"
            graph.register_buffer(name, constants[node])
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.get_attr(name))


def rounded(x: Tensor, scale: float, zero_point: int, low: int, high: int) -> Tensor:
    """What quantizing and dequantizing make of a tensor, step by step in one copy of it."""
    return x.mul(1 / scale).round_().add_(zero_point).clamp_(low, high).sub_(zero_point).mul_(scale)


def quantized_operators() -> Any:
    """The operators of quantized graphs, which torch knows only after this import."""
    import torch.ao.quantization.fx._decomposed  # noqa: F401

    return torch.ops.quantized_decomposed


@contextmanager
def errors_only() -> Iterator[None]:
    """Keeps back what the libraries log below an error, and the quantizer's warning that pooling stays float."""

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
    for logger in loggers:
        logger.addFilter(is_error)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The input of maxpool2d is not quantized")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_error)
