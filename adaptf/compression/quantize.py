"""Static INT8 quantization by Intel Neural Compressor. The router needs none of it:
loading is apart, in `int8.py`."""

import operator
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from adaptf.compression.agreement import REFERENCE_CLIPS, Reference, save_reference
from adaptf.compression.correction import correct, is_bias
from adaptf.compression.int8 import (
    DYNAMIC_BATCH,
    Int8Network,
    errors_only,
    example_of,
    for_running,
    save_int8,
)
from adaptf.compression.openvino_form import Convert, convert, save_openvino
from adaptf.compression.runtime import openvino_file, remove_openvino
from adaptf.data.shared_objects import SharedObjects
from adaptf.errors import UserError
from adaptf.models.students.registry import serving_form

_CORRECTION_CLIPS = 256
"""Calibration clips from which weights and biases are corrected, at most: they are run at once."""
_Closeness = Callable[[Callable[[Tensor], Tensor]], float]
"""How close a network (log-mel -> logits) is to the float one, which has 1."""


@dataclass(frozen=True)
class Ranges:
    """How the ranges of activations are taken from the calibration clips."""

    observer: str
    """kl: by a histogram, where rare extremes are cut off if that costs less than coarse steps; minmax: a
    moving average of each batch's extremes."""
    symmetric: bool
    """Whether zero lies in the middle; otherwise all 256 steps lie where the values do."""

    def __str__(self) -> str:
        return f"{self.observer}, {'symmetric' if self.symmetric else 'asymmetric'}"


CANDIDATES = (Ranges("kl", False), Ranges("minmax", False), Ranges("kl", True), Ranges("minmax", True))
"""In the order in which they are tried (docs/int8.md)."""


@dataclass(frozen=True)
class Int8Graph:
    """A quantized network whose weights are still kept as floats, and how it came about."""

    graph: fx.GraphModule
    clip_shape: tuple[int, ...]
    """(1, bands, frames)"""
    ranges: Ranges
    trials: int
    """Candidates that were tried."""
    heard: Tensor
    """Some of the calibration clips (clips, 1, bands, frames),
    by which the saved network is tried wherever it is loaded."""

    def program(self) -> ExportedProgram:
        """The reference: log-mel (batch, 1, bands, frames) -> logits (batch, classes),
        INT8 weights and FP16 biases alone."""
        return _packed(self)


def tune_int8(
    network: nn.Module,
    calibration: Sequence[Tensor],
    closeness: _Closeness,
    *,
    tolerable_distance: float,
    candidates: Sequence[Ranges] = CANDIDATES,
    shared: SharedObjects | None = None,
    program: str = "",
) -> Int8Graph:
    """The first candidate whose closeness to the float network is at most so much below 1,
    or the closest where none is.

    Each convolution gets INT8 weights with a scale per output channel, a bias of FP16 values with the batch
    normalization folded in, and UINT8 input; all else stays float. The ranges of the inputs and the
    corrections of weights and biases come from the batches of log-mels (batch, 1, bands, frames) in
    `calibration`. The network is left as it was: a copy in another form (`models/served.py`) is quantized.
    `shared` keeps the graph of that form for further networks of the same `program`,
    which differ from it in weights alone.

    Raises UserError without a calibration batch, where two hold clips of different shapes,
    or without candidates.
    """
    clip_shape = _shape_of_clips(calibration)
    if not candidates:
        raise UserError("at least one way to take the ranges of activations should be tried, got none")
    form, example = serving_form(network, calibration), example_of(clip_shape)
    clips = torch.cat(list(calibration))[:_CORRECTION_CLIPS].cpu()
    found: list[float] = []
    finished: list[fx.GraphModule] = []

    def evaluate(graph: fx.GraphModule) -> float:
        """Of each candidate; Neural Compressor asks for the float network first."""
        if not found:
            found.append(1.0)
        else:
            correct(graph, clips)
            finished.append(graph)
            found.append(closeness(for_running(graph)))
        return found[-1]

    with errors_only(), torch.no_grad():
        from neural_compressor.torch.quantization import TuningConfig, autotune

        configurations = [_configuration(form, one) for one in candidates]
        graph = autotune(
            _traced(form, example, shared or SharedObjects(), program),
            TuningConfig(configurations, tolerable_loss=tolerable_distance, max_trials=len(candidates)),
            eval_fn=evaluate,
            run_fn=lambda observed: _run(observed, calibration),
            example_inputs=example,
        )
    if not any(
        graph is one for one in finished
    ):  # the best was not the last one, and has been quantized anew
        correct(graph, clips)
    _, *tried = found
    within = (place for place, one in enumerate(tried) if one >= 1 - tolerable_distance)
    best = next(within, tried.index(max(tried)))
    return Int8Graph(graph, clip_shape, candidates[best], len(tried), clips[:REFERENCE_CLIPS].half().float())


def quantize_int8(
    network: nn.Module, calibration: Sequence[Tensor], ranges: Ranges = CANDIDATES[0]
) -> Int8Graph:
    """What `tune_int8` makes of one candidate, whatever it loses."""
    return tune_int8(network, calibration, lambda _: 1.0, tolerable_distance=0.0, candidates=[ranges])


def save_forms(quantized: Int8Graph, path: Path, convert: Convert = convert) -> ExportedProgram:
    """Writes the .pt2 file, clips to try it with and, where OpenVINO is installed, its form;
    returns the file's program.

    OpenVINO that crashes takes its process along: stages let a fresh one `convert`.
    """
    remove_openvino(path)  # of an interrupted run
    try:
        save_openvino(quantized.graph, quantized.clip_shape, openvino_file(path), convert)
    except Exception as error:  # whatever a converter may raise: the .pt2 file needs nothing of it
        print(f"{path.name} gets no OpenVINO form: {type(error).__name__}: {error}", flush=True)
    program = quantized.program()
    save_int8(program, path)
    with torch.no_grad():
        save_reference(Reference(quantized.heard, Int8Network(program)(quantized.heard)), path)
    return program


@errors_only()
def _packed(quantized: Int8Graph) -> ExportedProgram:
    """Weights are kept as INT8 and biases as FP16, with nothing beside them."""
    from torchao.quantization.pt2e.constant_fold import constant_fold

    graph = deepcopy(quantized.graph)
    constant_fold(graph)
    for node in graph.graph.find_nodes(op="get_attr"):
        if is_bias(node, graph):
            _keep_as_fp16(node, graph)
    graph = fx.GraphModule(
        graph, graph.graph
    )  # takes along what the graph reads: the float weights stay behind
    example = example_of(quantized.clip_shape)
    program = torch.export.export(graph, example, dynamic_shapes=DYNAMIC_BATCH, strict=False)
    program.example_inputs = None
    for (
        node
    ) in program.graph.nodes:  # stack traces are half of a file, and tell where the code lies on this machine
        node.meta = {key: node.meta[key] for key in node.meta.keys() & {"val"}}
    return program


def _keep_as_fp16(node: fx.Node, graph: fx.GraphModule) -> None:
    """Puts a tensor in FP16, made float again when run, in the place of one in FP32."""
    name = f"{node.name}_half"
    graph.register_buffer(name, operator.attrgetter(str(node.target))(graph).detach().half())
    with graph.graph.inserting_before(node):
        half = graph.graph.get_attr(name)
        single = graph.graph.call_function(torch.ops.aten._to_copy.default, (half,), {"dtype": torch.float32})
    node.replace_all_uses_with(single)
    graph.graph.erase_node(node)


def _shape_of_clips(calibration: Sequence[Tensor]) -> tuple[int, ...]:
    """(1, bands, frames)"""
    if not calibration:
        raise UserError(
            "calibration should hold at least one batch of log-mels (batch, 1, bands, frames), got none"
        )
    first = calibration[0]
    for clips in calibration:
        if clips.shape[1:] != first.shape[1:]:
            shapes = f"{tuple(clips.shape)} after {tuple(first.shape)}"
            raise UserError(f"calibration batches should hold clips of one shape, got {shapes}")
    return tuple(first.shape[1:])


def _traced(
    network: nn.Module, example: tuple[Tensor], shared: SharedObjects, program: str
) -> fx.GraphModule:
    """The graph of a copy of the network,
    as Neural Compressor's own export leaves it but in a third of the time."""
    if program:
        key = ("traced", program, example[0].shape)
        graph = deepcopy(shared.once(key, lambda: _trace(network, example)))
        graph.load_state_dict(network.state_dict())
    else:
        graph = _trace(network, example)
    vars(graph).update(_exported=True, dynamic_shapes=DYNAMIC_BATCH)
    return graph


def _trace(network: nn.Module, example: tuple[Tensor]) -> fx.GraphModule:
    copy = deepcopy(network).cpu().eval()
    return torch.export.export(copy, example, dynamic_shapes=DYNAMIC_BATCH, strict=False).module()


def _configuration(network: nn.Module, ranges: Ranges) -> Any:
    """Neural Compressor's configuration: INT8 weights per channel, activations as the ranges say."""
    from neural_compressor.torch.quantization import INT8StaticQuantConfig

    config = INT8StaticQuantConfig(
        w_granularity="per_channel", act_algo=ranges.observer, act_sym=ranges.symmetric
    )
    # The quantizer takes products too, such as those of statistics.
    in_float = INT8StaticQuantConfig(w_dtype="fp32", act_dtype="fp32")
    for name, module in network.named_modules():
        if getattr(module, "stays_float", False):
            config.set_local(name, in_float)
    return config


def _run(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Shows a network log-mels."""
    for clips in batches:
        network(clips.cpu())
