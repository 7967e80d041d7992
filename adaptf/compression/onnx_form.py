"""The ONNX form of a quantized network: the same program with the same integers, for ONNX Runtime and for
what else reads ONNX on devices.

PyTorch's exporter needs some 13 s of a processor for TF-SepNet, and writes a file of 406 kB, of which 155 kB
tell where the code lay; this needs 0.05 s, and writes one of 180 kB, with biases as FP16.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from torch.export import ExportedProgram

from adaptf.compression.int8 import kept_tensors
from adaptf.compression.onnx_operators import Writer, write

if TYPE_CHECKING:
    from onnx import ModelProto

LOG_MEL, LOGITS, BATCH = "log_mel", "logits", "batch"
"""Names of a network's input (batch, 1, bands, frames), of its output (batch, classes), and of the axis that
may have any length."""
_OPSET, _IR_VERSION = 17, 8
"""Of ONNX 1.12, of 2022: the newer, the fewer devices read it."""


def onnx_network(program: ExportedProgram, *, exact_biases: bool = False) -> "ModelProto":
    """The program of a .pt2 file: log-mel (batch, 1, bands, frames) -> logits (batch, classes).

    Weights are kept as INT8 and biases as FP16; the inputs of convolutions are quantized and made float again
    by QuantizeLinear and DequantizeLinear. A runtime that computes with whole numbers rounds a bias to one,
    by up to 2 % of a step of what comes out; with `exact_biases` they are added apart, which takes longer
    (docs/export.md). Raises UserError for an operator that has no form here.
    """
    writer = Writer(kept_tensors(program), exact_biases=exact_biases)
    for node in program.graph.nodes:
        if node.op == "call_function":
            writer.names[node.name] = write(writer, node)
        elif node.op == "placeholder" and node.name not in writer.tensors:
            writer.names[node.name], clip_shape = LOG_MEL, node.meta["val"].shape[1:]
    ((logits,),) = program.graph.output_node().args
    writer.add("Identity", LOGITS, writer.name(logits))
    scenes = logits.meta["val"].shape[1:]
    return onnx_model(
        writer.nodes, writer.constants, {LOG_MEL: [BATCH, *clip_shape]}, {LOGITS: [BATCH, *scenes]}
    )


def onnx_model(
    nodes: Sequence[Any],
    constants: Mapping[str, NDArray[Any]],
    inputs: Mapping[str, Sequence[Any]],
    outputs: Mapping[str, Sequence[Any]],
) -> "ModelProto":
    """A model that ONNX's own check takes, of inputs and outputs of float32 with these names and shapes."""
    from onnx import TensorProto, checker, helper, numpy_helper

    given, made = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]
        for values in (inputs, outputs)
    )
    kept = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "adaptf", given, made, kept)
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="adaptf")
    checker.check_model(model, full_check=True)
    return model
