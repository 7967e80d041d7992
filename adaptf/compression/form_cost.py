"""What a saved INT8 network costs, counted from its own file: what answers is what is held to the limits."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from adaptf.compression.complexity import limits_broken
from adaptf.compression.int8 import CONVOLUTION, quantized_operators
from adaptf.compression.runtime import core

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
    names = names_of_tensors(program)
    of_quantization = {
        names[node.name]
        for dequantize in program.graph.find_nodes(
            op="call_function", target=quantized_operators().dequantize_per_channel.default
        )
        for node in dequantize.all_input_nodes[1:]
    }
    tensors = {**program.state_dict, **program.constants}
    kept = [
        tensor
        for name, tensor in tensors.items()
        if name not in of_quantization and isinstance(tensor, torch.Tensor)
    ]
    return FormCost(int(macs), sum(tensor.nbytes for tensor in kept if tensor.ndim))


def names_of_tensors(program: ExportedProgram) -> dict[str, str]:
    """Place in the graph -> name among the program's state and constants."""
    signature = program.graph_signature
    return {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }


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
