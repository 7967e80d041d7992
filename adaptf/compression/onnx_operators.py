"""What writes each operator of a quantized program as nodes of ONNX."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from adaptf.compression.int8 import quantized_operators
from adaptf.errors import UserError


class Writer:
    """The nodes written so far, and what they read."""

    def __init__(self, tensors: Mapping[str, Tensor], *, exact_biases: bool) -> None:
        self.tensors, self.exact_biases = tensors, exact_biases
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.known: dict[tuple[object, ...], str] = {}
        """Names of constants."""
        self.names: dict[str, str] = {}
        """Of what comes out of the program's nodes."""

    def add(self, operator: str, out: str, *inputs: str, **attributes: Any) -> str:
        """The name of what comes out of a new node."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [out], **attributes))
        return out

    def name(self, value: Any) -> str:
        """Of what comes out of a node, of a tensor that is kept, or of a number."""
        if not isinstance(value, fx.Node):
            return self.constant(np.array(value, np.float32))
        if value.name in self.tensors:
            self.constants[value.name] = self.tensors[value.name].detach().numpy()
            return value.name
        return self.names[value.name]

    def constant(self, value: NDArray[Any]) -> str:
        """Equal ones are kept once."""
        key = (str(value.dtype), value.shape, value.tobytes())
        if key not in self.known:
            self.known[key] = f"constant_{len(self.known)}"
            self.constants[self.known[key]] = value
        return self.known[key]

    def whole(self, *numbers: int) -> str:
        """Of whole numbers such as axes."""
        return self.constant(np.array(numbers, np.int64))


def write(writer: Writer, node: fx.Node) -> str:
    """The name of what comes out. Raises UserError for an operator that is not in the table."""
    if node.target not in _operators():
        raise UserError(
            f"{node.target} has no ONNX form yet: it belongs into adaptf/compression/onnx_operators.py"
        )
    return _operators()[node.target](writer, node.name, *node.args, **node.kwargs)


def _as(operator: str) -> Callable[..., str]:
    """The same operator by ONNX's name."""
    return lambda writer, out, *inputs: writer.add(operator, out, *map(writer.name, inputs))


def _itself(writer: Writer, out: str, x: fx.Node, *others: object) -> str:
    """Of what changes nothing in use."""
    return writer.name(x)


def _quantize(operator: str) -> Callable[..., str]:
    """To or from whole numbers by one scale and zero point."""

    def write(
        writer: Writer, out: str, x: fx.Node, scale: float, zero: int, low: int, high: int, kind: torch.dtype
    ) -> str:
        if (low, high) != (torch.iinfo(kind).min, torch.iinfo(kind).max):
            raise UserError(f"ONNX quantizes to all values of {kind}, not to those from {low} to {high}")
        zeros = writer.constant(torch.tensor(zero, dtype=kind).numpy())
        return writer.add(operator, out, writer.name(x), writer.name(scale), zeros)

    return write


def _dequantize_weights(
    writer: Writer, out: str, x: fx.Node, scales: fx.Node, zeros: fx.Node, axis: int, *limits: object
) -> str:
    scale, zero = writer.tensors[scales.name].float(), writer.tensors[zeros.name].to(torch.int8)
    inputs = (writer.name(x), writer.constant(scale.numpy()), writer.constant(zero.numpy()))
    return writer.add("DequantizeLinear", out, *inputs, axis=axis)


def _to_float(writer: Writer, out: str, x: fx.Node, *, dtype: torch.dtype) -> str:
    from onnx import TensorProto

    assert dtype == torch.float32, dtype
    return writer.add("Cast", out, writer.name(x), to=TensorProto.FLOAT)


def _conv(
    writer: Writer,
    out: str,
    x: fx.Node,
    weight: fx.Node,
    bias: fx.Node | None = None,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
) -> str:
    inputs = [writer.name(one) for one in (x, weight, bias) if one is not None]
    named = {"strides": strides, "pads": [*padding, *padding], "dilations": dilations, "group": groups}
    if bias is None or not writer.exact_biases:
        return writer.add("Conv", out, *inputs, **named)
    sums = writer.add("Conv", f"{out}_sums", *inputs[:2], **named)
    by_channel = writer.add("Unsqueeze", f"{out}_bias", inputs[2], writer.whole(1, 2))
    return writer.add("Add", out, sums, by_channel)


def _pool(operator: str, **more: int) -> Callable[..., str]:
    def write(
        writer: Writer,
        out: str,
        x: fx.Node,
        kernel: Sequence[int],
        strides: Sequence[int] = (),
        padding: Sequence[int] = (0, 0),
    ) -> str:
        named = {"kernel_shape": kernel, "strides": strides or kernel, "pads": [*padding, *padding]}
        return writer.add(operator, out, writer.name(x), **named, **more)

    return write


def _slice(writer: Writer, out: str, x: fx.Node, axis: int, start: int, end: int) -> str:
    if start == 0 and end >= 2**62:
        return writer.name(x)
    return writer.add("Slice", out, writer.name(x), *(writer.whole(one) for one in (start, end, axis)))


def _cat(writer: Writer, out: str, parts: Sequence[fx.Node], axis: int = 0) -> str:
    if len(parts) == 1:
        return writer.name(parts[0])
    return writer.add("Concat", out, *map(writer.name, parts), axis=axis)


def _mean(writer: Writer, out: str, x: fx.Node, axes: Sequence[int], keepdim: bool = False) -> str:
    return writer.add("ReduceMean", out, writer.name(x), axes=axes, keepdims=int(keepdim))


def _norm(writer: Writer, out: str, x: fx.Node, order: float, axes: Sequence[int], keepdim: bool) -> str:
    assert order == 2, order
    return writer.add("ReduceL2", out, writer.name(x), axes=axes, keepdims=int(keepdim))


def _sum(writer: Writer, out: str, x: fx.Node, axes: Sequence[int], keepdim: bool = False) -> str:
    return writer.add("ReduceSum", out, writer.name(x), writer.whole(*axes), keepdims=int(keepdim))


def _unsqueeze(writer: Writer, out: str, x: fx.Node, axis: int) -> str:
    return writer.add("Unsqueeze", out, writer.name(x), writer.whole(axis))


def _square(writer: Writer, out: str, x: fx.Node) -> str:
    return writer.add("Mul", out, writer.name(x), writer.name(x))


def _rsqrt(writer: Writer, out: str, x: fx.Node) -> str:
    return writer.add("Reciprocal", out, writer.add("Sqrt", f"{out}_root", writer.name(x)))


def _addcmul(writer: Writer, out: str, x: fx.Node, one: fx.Node, other: fx.Node) -> str:
    product = writer.add("Mul", f"{out}_product", writer.name(one), writer.name(other))
    return writer.add("Add", out, writer.name(x), product)


@cache
def _operators() -> dict[Any, Callable[..., str]]:
    """By operator of a program what writes it: (writer, name of what comes out, arguments) -> that name."""
    aten, quantized = torch.ops.aten, quantized_operators()
    return {
        quantized.quantize_per_tensor.default: _quantize("QuantizeLinear"),
        quantized.dequantize_per_tensor.default: _quantize("DequantizeLinear"),
        quantized.dequantize_per_channel.default: _dequantize_weights,
        aten._to_copy.default: _to_float,
        aten.conv2d.default: _conv,
        aten.max_pool2d.default: _pool("MaxPool"),
        aten.avg_pool2d.default: _pool("AveragePool", count_include_pad=1),
        aten.mean.dim: _mean,
        aten.sum.dim_IntList: _sum,
        aten.linalg_vector_norm.default: _norm,
        aten.slice.Tensor: _slice,
        aten.cat.default: _cat,
        aten.unsqueeze.default: _unsqueeze,
        aten.square.default: _square,
        aten.rsqrt.default: _rsqrt,
        aten.addcmul.default: _addcmul,
        aten.dropout.default: _itself,
        aten.add.Tensor: _as("Add"),
        aten.sub.Tensor: _as("Sub"),
        aten.mul.Tensor: _as("Mul"),
        aten.div.Tensor: _as("Div"),
        aten.neg.default: _as("Neg"),
        aten.relu.default: _as("Relu"),
        aten.relu_.default: _as("Relu"),
        aten.sigmoid.default: _as("Sigmoid"),
        aten.tanh.default: _as("Tanh"),
        aten.hardswish.default: _as("HardSwish"),
    }
