"""INT8 programs as plain code: equal to the bit, and costing what they should."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torchinfo
from torch import nn
from torch.export import ExportedProgram

from adaptf.compression.complexity import measure_complexity
from adaptf.compression.form_cost import cost_of_program
from adaptf.compression.int8 import Int8Network, read_program
from adaptf.compression.quantize import quantize_int8
from adaptf.models.students.registry import STUDENTS
from adaptf.submission.network_code import NetworkCode, network_code
from adaptf.submission.package.layers import Bias, Int8Conv2d

pytestmark = pytest.mark.slow
SHAPE = (1, 64, 64)
SETTINGS = {"tfsepnet": {"width": 8, "depth": 4}, "cp_mobile": {"width": 8}}


@pytest.fixture(scope="module", params=SETTINGS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def float_network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return STUDENTS[kind].network(classes=10, **SETTINGS[kind])


@pytest.fixture(scope="module")
def program(kind: str, float_network: nn.Module, network_files: dict[str, Path]) -> ExportedProgram:
    if kind == "tfsepnet":
        return read_program(network_files["b"])
    return quantize_int8(float_network, [torch.randn(8, *SHAPE)]).program()


@pytest.fixture(scope="module")
def code(program: ExportedProgram) -> NetworkCode:
    return network_code(program)


@pytest.fixture(scope="module")
def network(code: NetworkCode) -> nn.Module:
    names: dict[str, type[nn.Module]] = {}
    exec(code.source.replace("from ..layers", "from adaptf.submission.package.layers"), names)
    network = names["Network"]()
    network.load_state_dict(code.tensors, strict=True)
    return network.eval()


@torch.no_grad()
def test_logits_are_those_of_the_program_to_the_bit(network: nn.Module, program):
    clips = torch.randn(8, *SHAPE)
    assert torch.equal(network(clips), Int8Network(program)(clips))


def test_costs_are_counted_as_they_are(network: nn.Module, float_network: nn.Module, program, code):
    """By the organisers' counts; biases within the convolutions, or scales among the parameters,
    would count more."""
    profile = torchinfo.summary(deepcopy(network).float(), input_size=(1, *SHAPE), verbose=0)
    size = sum(one.numel() * one.element_size() for one in network.parameters())
    biases = int(code.layers["biases"].sum())
    cost = cost_of_program(program)
    assert profile.total_mult_adds == cost.macs + biases == code.layers["MACs"].sum()
    assert size == cost.model_bytes == code.layers["bytes"].sum()
    assert size == measure_complexity(float_network, bands=SHAPE[1], frames=SHAPE[2]).model_bytes


def test_weights_are_int8_parameters_and_scales_are_none(network: nn.Module):
    for module in network.modules():
        if isinstance(module, Int8Conv2d):
            assert {one.dtype for one in module.float().parameters()} == {torch.int8}
            assert [name for name, _ in module.named_buffers()] == ["scale"]
        elif isinstance(module, Bias):
            assert [one.dtype for one in module.half().parameters()] == [torch.float16]


def test_the_code_names_the_parts_of_the_network(code: NetworkCode):
    assert "# stem 1\n" in code.source and "# body 1\n" in code.source
    assert code.layers.index[0] == "stem_0" and code.layers.index[-1].startswith("classifier")
    assert len(code.layers) == len(set(code.layers.index))
