"""The OpenVINO form of a quantized network:
the same program with the same integers, in less time on x86 processors."""

import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram

from adaptf.compression.int8 import errors_only

Convert = Callable[[ExportedProgram, tuple[int, ...], Path], None]
"""What `convert` does, here or in another process."""


def save_openvino(graph: fx.GraphModule, clip_shape: tuple[int, ...], path: Path, convert: Convert) -> None:
    """Writes the program of a converted graph, weights not folded yet,
    to `path` (.xml) and the .bin file beside it.

    `clip_shape` is (1, bands, frames). Folded weights would be INT8 constants, behind which OpenVINO does not
    recognise a quantized convolution; a batch that is not fixed does not compile, and takes longer to trace.
    The .xml comes last: without it there is no such form.
    """
    with errors_only():
        graph = deepcopy(graph)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        program = torch.export.export(graph, (torch.zeros(1, *clip_shape),), strict=False)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".openvino") as folder:
        convert(program, clip_shape, Path(folder) / path.name)
        for suffix in (".bin", ".xml"):
            (Path(folder) / path.with_suffix(suffix).name).replace(path.with_suffix(suffix))


def convert(program: ExportedProgram, clip_shape: tuple[int, ...], path: Path) -> None:
    """Writes both files of a program of one clip."""
    import openvino

    with errors_only():
        model = openvino.convert_model(program)
    model.reshape([1, *clip_shape])
    _keep_biases_as_fp16(model)
    openvino.save_model(model, path, compress_to_fp16=False)


def _keep_biases_as_fp16(model: Any) -> None:
    """What is added to channels has values of FP16;
    kept as such, it takes the bytes that the challenge counts."""
    import openvino
    from openvino import opset13

    for addition in (operation for operation in model.get_ops() if operation.get_type_name() == "Add"):
        for place in addition.inputs():
            constant = place.get_source_output().get_node()
            if constant.get_type_name() == "Constant" and constant.get_element_type() == openvino.Type.f32:
                half = constant.get_data().astype(np.float16)
                if half.size > 1 and np.array_equal(half.astype(np.float32), constant.get_data()):
                    place.replace_source_output(opset13.convert(opset13.constant(half), "f32").output(0))
