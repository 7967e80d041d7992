"""Static INT8 networks on disk and in use: .pt2 files, run a few clips at a time.
Quantizing is apart: `quantize.py`."""

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.const_fold import split_const_subgraphs

from adaptf.errors import UserError
from adaptf.files import write_atomically
from adaptf.models.torch_file import UnreadableFile, check_finite

CLIPS_AT_ONCE = 8
"""More would not stay in the processor's caches: 256 at once take twice the time per clip."""

_one_at_a_time = threading.Lock()
"""Torch reads one .pt2 file at a time; a router that follows a registry reads from several threads."""
DYNAMIC_BATCH = ({0: Dim("batch", min=1)},)
"""Of (batch, 1, bands, frames)."""
CONVOLUTION = torch.ops.aten.conv2d.default
_NOISY_LOGGERS = (
    "",
    "neural_compressor",
    "torchao",
    "torchao.kernel.intmm",
    "torch.utils._pytree",
    "torch.export",
)
"""They (torchao also by the root) log progress, extensions for other machines,
and deprecations within torch, as warnings."""


@contextmanager
def errors_only() -> Iterator[None]:
    """Keeps back what the quantizing libraries log below an error, and their warnings."""

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    for logger in loggers:
        logger.addFilter(is_error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_error)


def example_of(clip_shape: tuple[int, ...]) -> tuple[Tensor]:
    """Two clips of silence, for exporting: one alone would make the size of the batch static."""
    return (torch.zeros(2, *clip_shape),)


def int8_convolutions(program: ExportedProgram) -> tuple[int, int]:
    """How many convolutions have weights kept as INT8 and quantized input, and how many there are."""
    convolutions = program.graph.find_nodes(op="call_function", target=CONVOLUTION)
    return sum(_is_int8(convolution) for convolution in convolutions), len(convolutions)


def _is_int8(convolution: fx.Node) -> bool:
    quantized = quantized_operators()
    activation, weight = convolution.all_input_nodes[:2]
    return (
        activation.target == quantized.dequantize_per_tensor.default
        and weight.target == quantized.dequantize_per_channel.default
        and weight.all_input_nodes[0].op == "placeholder"
        and weight.all_input_nodes[0].meta["val"].dtype == torch.int8
    )


def kept_tensors(program: ExportedProgram) -> dict[str, Tensor]:
    """What a program holds, by the names that its graph has for it."""
    signature, tensors = program.graph_signature, {**program.state_dict, **program.constants}
    places = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    return {name: tensors[place] for name, place in places.items()}


def save_int8(program: ExportedProgram, path: Path | str) -> None:
    """Writes a program to a .pt2 file, which is there completely or not at all."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_atomically(Path(path), buffer.getvalue())


def load_int8(path: Path | str) -> "Int8Network":
    """The network of a file written by `save_int8`. Raises UserError as `read_program`."""
    return Int8Network(read_program(Path(path)))


def read_program(path: Path) -> ExportedProgram:
    """What `save_int8` wrote. Reading a .pt2 file can run code in it: load your own only.

    Raises UserError where the file is missing, damaged or something else,
    or not all its convolutions are INT8.
    """
    if not path.is_file():
        raise UserError(f"INT8 network {path} does not exist")
    quantized_operators()
    try:
        with _one_at_a_time, errors_only(), path.open("rb") as file:
            program = torch.export.load(file)
        check_finite(program.state_dict | program.constants)
    except UnreadableFile as error:
        raise UserError(f"INT8 network {path}: {error}") from None
    except Exception as error:  # from the zip reader to the graph's deserializer, each has kinds of its own
        raise UserError(f"{path} is no complete .pt2 file: {type(error).__name__}: {error}") from error
    int8, convolutions = int8_convolutions(program)
    if int8 < max(convolutions, 1):
        raise UserError(
            f"{path} should be an INT8 network, but {int8} of its {convolutions} convolutions are INT8"
        )
    return program


def clip_shape_of(program: ExportedProgram) -> tuple[int, ...]:
    """(1, bands, frames)"""
    (logmel,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    return tuple(logmel.meta["val"].shape[1:])


def check_clips(logmel: Tensor, clip_shape: tuple[int, ...]) -> None:
    """Raises ValueError where they are not one or more clips of this shape."""
    if logmel.shape[1:] != clip_shape or not len(logmel):
        expected = ", ".join(map(str, clip_shape))
        raise ValueError(f"log-mel should be (batch >= 1, {expected}), got {tuple(logmel.shape)}")


class Int8Network(nn.Module):
    """Log-mel (batch, 1, bands, frames) -> logits (batch, classes), `CLIPS_AT_ONCE` clips at a time.

    Float sums depend a little on how many clips are added up at once, and where one lies between two steps of
    INT8 it may be rounded up or down: a clip's logits may move by about 0.001 with the size of the batch.

    Raises ValueError for log-mels of another shape than the network was quantized with,
    and for an empty batch.
    """

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.clip_shape = clip_shape_of(program)
        self.graph = for_running(program.module(check_guards=False))

    def forward(self, logmel: Tensor) -> Tensor:
        check_clips(logmel, self.clip_shape)
        return torch.cat([self.graph(clips) for clips in logmel.split(CLIPS_AT_ONCE)])


@errors_only()
def for_running(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of a graph with equal results in less time:
    weights made float once, inputs rounded in one copy."""
    graph = split_const_subgraphs(fx.GraphModule(module, deepcopy(module.graph)))
    graph.run_folding()
    graph.graph.set_codegen(module.graph._codegen)
    quantize_per_tensor = quantized_operators().quantize_per_tensor.default
    for quantize in graph.graph.find_nodes(op="call_function", target=quantize_per_tensor):
        with graph.graph.inserting_before(quantize):
            once = graph.graph.call_function(_rounded, quantize.args[:-1])
        for dequantize in list(quantize.users):
            dequantize.replace_all_uses_with(once)
    graph.graph.eliminate_dead_code()
    return fx.GraphModule(graph, graph.graph)  # unlike an exported module, it allows eval()


def _rounded(x: Tensor, scale: float, zero_point: int, low: int, high: int) -> Tensor:
    """What quantizing and dequantizing make of a tensor, step by step in one copy of it."""
    return x.mul(1 / scale).round_().add_(zero_point).clamp_(low, high).sub_(zero_point).mul_(scale)


def quantized_operators() -> Any:
    """The operators of quantized graphs, which torch knows only after this import."""
    import torch.ao.quantization.fx._decomposed

    return torch.ops.quantized_decomposed
