"""What a saved network costs is counted from its own file."""

import platform
from pathlib import Path

import pytest
import torch

from adaptf.compression import runtime
from adaptf.compression.complexity import MAX_BYTES, MAX_MACS
from adaptf.compression.form_cost import FormCost, cost_of_openvino, cost_of_program
from adaptf.compression.quantize import quantize_int8, save_forms
from adaptf.models.students.tfsepnet.network import TfSepNet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TF-SepNet-64 at the challenge's size: 512 bands, 64 frames."""
    torch.manual_seed(0)
    path, network = tmp_path_factory.mktemp("forms") / "a.pt2", TfSepNet(classes=10)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias)  # zeros would be left out
    save_forms(quantize_int8(network, [torch.randn(2, 1, 512, 64)]), path)
    return path


def test_the_pt2_file_keeps_the_limits_by_its_own_tensors(path: Path) -> None:
    cost = cost_of_program(torch.export.load(path))
    assert cost == FormCost(macs=29_413_888, model_bytes=121_408 + 2 * 2_730)
    assert cost.problems() == []


@pytest.mark.skipif(platform.machine().lower() not in runtime.X86, reason="the OpenVINO form is for x86")
def test_the_openvino_form_costs_no_more_than_the_pt2_file(path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    assert cost_of_openvino(path.with_suffix(".xml")) == cost_of_program(torch.export.load(path))


@pytest.mark.skipif(platform.machine().lower() not in runtime.X86, reason="the OpenVINO form is for x86")
def test_a_grouped_convolution_that_was_made_dense_is_counted_as_what_it_is(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    for groups in (1, 8):
        network = torch.nn.Conv2d(8, 16, 3, padding=1, groups=groups).eval()
        model = openvino.convert_model(network, example_input=torch.zeros(1, 8, 10, 10))
        model.reshape([1, 8, 10, 10])
        openvino.save_model(model, tmp_path / f"{groups}.xml", compress_to_fp16=False)
        weights = 16 * 9 * (8 // groups)
        expected = FormCost(macs=100 * weights, model_bytes=4 * weights + 4 * 16)
        assert cost_of_openvino(tmp_path / f"{groups}.xml") == expected


def test_what_breaks_a_limit_is_said() -> None:
    assert FormCost(MAX_MACS, MAX_BYTES).problems() == []
    assert FormCost(102_557_824, 162_580).problems() == [
        "162,580 bytes of parameters, at most 128,000 allowed",
        "102,557,824 multiply-accumulates, at most 30,000,000 allowed",
    ]
