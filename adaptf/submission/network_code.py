"""An INT8 program (.pt2) written as a plain torch module: its source, its tensors, its layers as a table."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.nn import functional as F

from adaptf.compression.int8 import CONVOLUTION, kept_tensors, quantized_operators

_LONGEST = 50
"""Characters of what is used once and so written where it is used; more become a statement."""
_HEAD = '''"""Log-mel (batch, 1, bands, frames) -> logits (batch, {classes}), as adaptf quantized it.

Each line is a step, with the shape of what it makes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import Bias, Int8Conv2d, Rounding


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
'''
_ALL_OF_AXIS = 2**63 - 1


@dataclass(frozen=True)
class NetworkCode:
    """A network that needs torch and the package's own layers."""

    source: str
    """Of a module with the class `Network`."""
    tensors: Mapping[str, Tensor]
    """Its state dict."""
    layers: pd.DataFrame
    """A row per convolution, and per bias that is added elsewhere."""


def network_code(program: ExportedProgram) -> NetworkCode:
    """Raises ValueError where a step of the program can't be written."""
    writer = _Writer(kept_tensors(program))
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name not in writer.held:
            writer.texts[node] = "log_mel"
        elif node.op == "call_function" and node.users:
            writer.write(node)
        elif node.op == "output":
            (logits,) = node.all_input_nodes
            writer.lines.append(f"return {writer.texts[logits]}")
    source = _HEAD.format(classes=logits.meta["val"].shape[1]) + writer.body()
    return NetworkCode(
        source, writer.tensors, pd.DataFrame(writer.layers).convert_dtypes().set_index("layer")
    )


@dataclass
class _Writer:
    """A program as far as it is written."""

    held: Mapping[str, Tensor]
    """By placeholder."""
    texts: dict[fx.Node, str] = field(default_factory=dict)
    """What stands for a node: a name, or what makes it."""
    modules: dict[str, str] = field(default_factory=dict)
    """By attribute the call that makes a layer."""
    lines: list[str] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    block: str = ""

    def body(self) -> str:
        """The rest of the class."""
        made = [f"        self.{name} = {call}\n" for name, call in self.modules.items()]
        lines = [f"        {line}".rstrip() + "\n" for line in self.lines]
        return "".join([*made, "\n    def forward(self, log_mel: Tensor) -> Tensor:\n", *lines])

    def write(self, node: fx.Node) -> None:
        """One step."""
        quantized = quantized_operators()
        if node.target == quantized.quantize_per_tensor.default:
            self._write_rounding(node)
        elif node.target == quantized.dequantize_per_tensor.default:
            self.texts[node] = self.texts[node.all_input_nodes[0]]
        elif node.target == quantized.dequantize_per_channel.default:
            self._write_weight(node)
        elif node.all_input_nodes and node.all_input_nodes[0].name in self.held:
            self._write_bias(node)
        elif node.target == CONVOLUTION:
            self._write_convolution(node)
        else:
            self._put(node, self._call(node), len(node.users))

    def _write_rounding(self, node: fx.Node) -> None:
        """Those who take the integers as floats take the same."""
        values, step, zero, lowest, highest = node.args[:5]
        name = self._free("round")
        self.modules[name] = f"Rounding({lowest}, {highest})"
        self.tensors |= {
            f"{name}.step": torch.tensor(step, dtype=torch.float64),
            f"{name}.zero": torch.tensor(zero, dtype=torch.float64),
        }
        users = sum(len(taken.users) for taken in node.users)
        self._put(node, f"self.{name}({self._text(values)})", users, called=name)

    def _write_weight(self, node: fx.Node) -> None:
        """Of a convolution, which may be read by others too."""
        weight, scale, zeros = (self.held[one.name] for one in node.all_input_nodes)
        if zeros.any() or node.args[3] != 0:
            raise ValueError(f"{node.name}: weights should be symmetric, with a scale per output channel")
        (convolution,) = (user for user in node.users if user.target == CONVOLUTION)
        name = self._name_of(convolution)
        self.tensors |= {f"{name}.weight": weight, f"{name}.scale": scale}
        self.texts[node] = f"self.{name}.dequantized()"

    def _write_bias(self, node: fx.Node) -> None:
        """FP16 values made float."""
        values = self.held[node.all_input_nodes[0].name]
        user = next(iter(node.users))
        name = f"{self._name_of(user)}_bias" if user.target == CONVOLUTION else self._free("bias")
        self.modules[name] = f"Bias({', '.join(map(str, values.shape))})"
        self.tensors[f"{name}.bias"] = values
        self.texts[node] = f"self.{name}()"
        if user.target != CONVOLUTION:
            figures = {"biases": values.numel(), "MACs": values.numel(), "bytes": values.nbytes}
            self.layers.append({"layer": name, **figures})

    def _write_convolution(self, node: fx.Node) -> None:
        values, weight, bias, stride, padding, dilation, groups = _convolution_arguments(node)
        name, kernel = self._name_of(node), weight.meta["val"].shape
        settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        said = [f"{key}={value}" for key, value in settings.items() if value != _DEFAULTS[key]]
        channels = kernel[1] * groups, kernel[0]
        self.modules[name] = f"Int8Conv2d({', '.join(map(str, [*channels, tuple(kernel[2:]), *said]))})"
        given = ", ".join(self._text(one) for one in (values, bias) if one is not None)
        self._begin_block(name)
        self._put(node, f"self.{name}({given})", len(node.users), called=name)
        biases = 0 if bias is None else kernel[0]
        size = node.meta["val"].shape[2:]
        self.layers.append(
            {
                "layer": name,
                "in": channels[0],
                "out": channels[1],
                "kernel": _times(kernel[2:]),
                "stride": _times(stride),
                "groups": groups,
                "output": _times(size),
                "weights": math.prod(kernel),
                "biases": biases,
                "MACs": math.prod(kernel) * math.prod(size) + biases,
                "bytes": math.prod(kernel) + 2 * biases,
            }
        )

    def _name_of(self, convolution: fx.Node) -> str:
        """As the network called it, where its bias tells; else by its number."""
        bias = (*convolution.args, None)[2]
        if isinstance(bias, fx.Node):
            held = bias.all_input_nodes[0].name.removeprefix("b_")
            return re.sub(r"(_conv)?(_weight)?_bias_half$", "", held)
        all_of_them = convolution.graph.find_nodes(op="call_function", target=CONVOLUTION)
        return f"convolution_{list(all_of_them).index(convolution)}"

    def _begin_block(self, name: str) -> None:
        """A remark where another part of the network begins."""
        block = " ".join(re.findall(r"[^_]+", name)[:2])
        if block != self.block and not name.startswith("convolution"):
            self.lines += ["", f"# {block}"] if self.lines else [f"# {block}"]
            self.block = block

    def _put(self, node: fx.Node, text: str, users: int, called: str = "") -> None:
        """What makes a node, where it is used if that is short and once, else as a statement."""
        if users == 1 and len(text) <= _LONGEST:
            self.texts[node] = text
        else:
            shape = ", ".join(str(size) if isinstance(size, int) else "b" for size in node.meta["val"].shape)
            self.texts[node] = called or node.name
            self.lines.append(f"{self.texts[node]} = {text}  # [{shape}]")

    def _call(self, node: fx.Node) -> str:
        """What a step of torch's own does."""
        name = str(node.target).split(".")[1]
        arguments: list[Any] = list(node.args)
        if name == "dropout":
            return self._text(arguments[0])
        if name == "slice":
            return self._slice(*arguments)
        given = [self._text(one) for one in arguments]
        given += [f"{key}={self._text(value)}" for key, value in node.kwargs.items()]
        return f"{_function(node.target)}({', '.join(given)})"

    def _slice(self, values: Any, axis: int = 0, begin: int = 0, end: int = _ALL_OF_AXIS) -> str:
        whole = begin == 0 and end == _ALL_OF_AXIS
        return self._text(values) + ("" if whole else f"[{':, ' * axis}{begin}:{end}]")

    def _text(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            return self.texts[value]
        if isinstance(value, Sequence) and not isinstance(value, str):
            return f"[{', '.join(map(self._text, value))}]"
        return str(value) if isinstance(value, torch.dtype) else repr(value)

    def _free(self, kind: str) -> str:
        return f"{kind}_{sum(name.startswith(kind + '_') for name in self.modules)}"


_DEFAULTS = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}


def _convolution_arguments(node: fx.Node) -> tuple[Any, ...]:
    """Input, weight, bias or None, stride, padding, dilation, groups."""
    given = [tuple(one) if isinstance(one, list) else one for one in node.args]
    return (*given, *[None, *_DEFAULTS.values()][len(given) - 2 :])


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def _function(target: Any) -> str:
    """How a program for people calls one of torch's operators."""
    space, name, overload = str(target).split(".")
    if name.startswith("linalg_"):
        return f"torch.linalg.{name.removeprefix('linalg_')}"
    for module, called in ((torch, "torch"), (F, "F")):
        if space == "aten" and hasattr(module, name):
            return f"{called}.{name}"
    return f"torch.ops.{space}.{name}.{overload}"
