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

from adaptf.errors import UserError
from adaptf.models.residual_normalization import ResidualNormalization

CLIPS_AT_ONCE = 8
"""More would not stay in the processor's caches: 256 at once take twice the time per clip."""

DYNAMIC_BATCH = ({0: Dim("batch", min=1)},)
"""Of (batch, 1, bands, frames)."""

CONVOLUTION = torch.ops.aten.conv2d.default
NOISY_LOGGERS = ("neural_compressor", "torchao", "torch.utils._pytree", "torch.export")
"""They log progress, extensions for other machines, and deprecations within torch, as warnings."""


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


def int8_convolutions(program: ExportedProgram) -> tuple[int, int]:
    """How many convolutions have weights kept as INT8 and quantized input, and how many there are."""
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
    """The network of a file written by `save_int8`. Reading a .pt2 file can run code in it: load your own only.

    Raises ValueError where the file is missing, damaged or something else, or not all its convolutions are INT8.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"INT8 network {path} does not exist")
    quantized_operators()
    try:
        with errors_only(), path.open("rb") as file:
            program = torch.export.load(file)
    except Exception as error:  # from the zip reader to the graph's deserializer, each has kinds of its own
        raise UserError(f"{path} is no complete .pt2 file: {type(error).__name__}: {error}") from error
    int8, convolutions = int8_convolutions(program)
    if int8 < max(convolutions, 1):
        raise UserError(f"{path} should be an INT8 network, but {int8} of its {convolutions} convolutions are INT8")
    return Int8Network(program)


class Int8Network(nn.Module):
    """Log-mel (batch, 1, bands, frames) -> logits (batch, classes), `CLIPS_AT_ONCE` clips at a time.

    Float sums depend a little on how many clips are added up at once, and where one lies between two steps of INT8 it may
    be rounded up or down: a clip's logits may move by about 0.001 with the size of the batch.

    Raises ValueError for log-mels of another shape than the network was quantized with, and for an empty batch.
    """

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        (logmel,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
        self.clip_shape = tuple(logmel.meta["val"].shape[1:])
        self.graph = for_running(program)

    def forward(self, logmel: Tensor) -> Tensor:
        if logmel.shape[1:] != self.clip_shape or not len(logmel):
            expected = ", ".join(map(str, self.clip_shape))
            raise ValueError(f"log-mel should be (batch >= 1, {expected}), got {tuple(logmel.shape)}")
        return torch.cat([self.graph(clips) for clips in logmel.split(CLIPS_AT_ONCE)])


def for_running(program: ExportedProgram) -> fx.GraphModule:
    """A program's graph with equal results in less time: weights made float once, inputs rounded in one copy."""
    module = program.module(check_guards=False)
    graph = fx.GraphModule(module, module.graph)  # unlike an exported module, it allows eval()
    fold_constants(graph)
    target = quantized_operators().dequantize_per_tensor.default
    for dequantize in graph.graph.find_nodes(op="call_function", target=target):
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
            constants[node] = node.target(*fx.map_arg(node.args, constants.__getitem__), **node.kwargs)
            name = f"folded_{node.name}"
            graph.register_buffer(name, constants[node])
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.get_attr(name))


def rounded(x: Tensor, scale: float, zero_point: int, low: int, high: int) -> Tensor:
    """What quantizing and dequantizing make of a tensor, step by step in one copy of it."""
    return x.mul(1 / scale).round_().add_(zero_point).clamp_(low, high).sub_(zero_point).mul_(scale)


def quantized_operators() -> Any:
    """The operators of quantized graphs, which torch knows only after this import."""
    import torch.ao.quantization.fx._decomposed

    return torch.ops.quantized_decomposed


@contextmanager
def errors_only() -> Iterator[None]:
    """Keeps back what the quantizing libraries log below an error."""

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
    for logger in loggers:
        logger.addFilter(is_error)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_error)
