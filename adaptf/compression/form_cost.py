"""What a saved INT8 network costs, counted from its own file: what answers is what is held to the limits."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.export import ExportedProgram

from adaptf.compression.complexity import limits_broken
from adaptf.compression.int8 import CONVOLUTION, kept_tensors, quantized_operators
from adaptf.compression.runtime import core

if TYPE_CHECKING:
    from onnx import ModelProto

_CONVOLUTIONS = {"Convolution": 1, "GroupConvolution": 2}
"""OpenVINO's operations, and how many axes of their weights tell output channels apart."""


@dataclass(frozen=True)
class FormCost:
    """Of one file for one clip."""

    macs: int
    """Multiply-accumulates of the convolutions."""
    model_bytes: int
    """Of weights and biases as they are kept;
    what belongs to quantization (scales, ranges) is not among them."""

    def problems(self) -> list[str]:
        """One message for each of the challenge's limits that is broken."""
        return limits_broken(model_bytes=self.model_bytes, macs=self.macs)


def cost_of_program(program: ExportedProgram) -> FormCost:
    """Of a .pt2 file."""
    macs = 0
    for convolution in program.graph.find_nodes(op="call_function", target=CONVOLUTION):
        weight = convolution.all_input_nodes[1].meta["val"]
        macs += math.prod(convolution.meta["val"].shape[1:]) * math.prod(weight.shape[1:])
    of_quantization = {
        node.name
        for dequantize in program.graph.find_nodes(
            op="call_function", target=quantized_operators().dequantize_per_channel.default
        )
        for node in dequantize.all_input_nodes[1:]
    }
    kept = [tensor for name, tensor in kept_tensors(program).items() if name not in of_quantization]
    return FormCost(int(macs), sum(tensor.nbytes for tensor in kept if tensor.ndim))


def cost_of_openvino(path: Path) -> FormCost:
    """Of an .xml file with the .bin beside it."""
    operations = core().read_model(path).get_ops()
    convolutions = [one for one in operations if one.get_type_name() in _CONVOLUTIONS]
    of_quantization = {name for one in convolutions for name in _scales_of(one)}
    ranges = [
        source
        for one in operations
        if one.get_type_name() == "FakeQuantize"
        for source in _sources_of(one)[1:]
    ]
    of_quantization |= {one.get_friendly_name() for one in ranges}
    counted = [
        one for one in operations if _is_tensor(one) and one.get_friendly_name() not in of_quantization
    ]
    return FormCost(sum(map(_macs_of, convolutions)), sum(one.get_data().nbytes for one in counted))


def macs_of_onnx(model: "ModelProto") -> int:
    """Multiply-accumulates of convolutions and products of matrices, for one clip."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {one.name: [size.dim_value or 1 for size in one.type.tensor_type.shape.dim] for one in values}
    shapes |= {one.name: list(one.dims) for one in graph.initializer}
    macs = 0
    for node in graph.node:
        if node.op_type == "Conv":
            macs += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type == "MatMul":
            macs += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return macs


def _macs_of(convolution: Any) -> int:
    """Of one of OpenVINO's convolutions."""
    weight, out = convolution.input(1).get_shape(), convolution.output(0).get_shape()
    return int(math.prod(out[1:]) * math.prod(weight[_CONVOLUTIONS[convolution.get_type_name()] :]))


def _scales_of(convolution: Any) -> list[str]:
    """Names of the constants by which a convolution's stored weights are multiplied."""
    names, node = [], _sources_of(convolution)[1]
    while node.get_type_name() != "Constant":
        node, *others = _sources_of(node)
        names += [other.get_friendly_name() for other in others]
    return names


def _sources_of(operation: Any) -> list[Any]:
    """What an operation takes its inputs from."""
    return [one.get_source_output().get_node() for one in operation.inputs()]


def _is_tensor(operation: Any) -> bool:
    """Whether it is a constant of more than one number that is no shape and no axis."""
    if operation.get_type_name() != "Constant" or math.prod(operation.output(0).get_shape()) <= 1:
        return False
    return operation.get_element_type().is_real() or operation.get_element_type().get_size() == 1
