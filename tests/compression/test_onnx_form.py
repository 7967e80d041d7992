"""The ONNX form says what the .pt2 file says, with the same integers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, numpy_helper

from adaptf.compression import runtime
from adaptf.compression.agreement import Reference, agreement, save_reference
from adaptf.compression.form_cost import cost_of_program, macs_of_onnx
from adaptf.compression.int8 import read_program
from adaptf.compression.onnx_form import onnx_network
from adaptf.compression.quantize import quantize_int8
from adaptf.compression.runtime import ONNX, PT2, OnnxNetwork, load_form, load_network
from adaptf.errors import UserError
from adaptf.models.students.cp_mobile import CpMobile

pytestmark = pytest.mark.arithmetic


@pytest.fixture
def path(network_files: dict[str, Path], tmp_path: Path) -> Path:
    """Of a TF-SepNet, without another form."""
    copy = tmp_path / "b.pt2"
    copy.write_bytes(network_files["b"].read_bytes())
    return copy


@pytest.fixture(scope="module")
def heard() -> torch.Tensor:
    return torch.randn(24, 1, 64, 64, generator=torch.Generator().manual_seed(3))


def test_onnx_runtime_says_what_the_file_says(path: Path, heard: torch.Tensor):
    by_onnx, by_torch = load_form(path, ONNX)(heard), load_form(path, PT2)(heard)
    found = agreement(by_onnx, by_torch)
    assert found.logit_error < 0.02 and found.same_scene >= 23 / 24


def test_with_exact_biases_it_differs_by_less(path: Path, heard: torch.Tensor):
    program, by_torch, errors = read_program(path), load_form(path, PT2)(heard), []
    for exact in (False, True):
        run = runtime.onnx_session(onnx_network(program, exact_biases=exact).SerializeToString())
        errors.append(agreement(run(heard), by_torch).logit_error)
    assert errors[1] < errors[0] / 2


def test_a_batch_is_its_clips_one_by_one_and_other_shapes_are_refused(path: Path, heard: torch.Tensor):
    network = load_form(path, ONNX)
    assert torch.equal(network(heard[:3]), torch.cat([network(clip[None]) for clip in heard[:3]]))
    with pytest.raises(ValueError, match=r"should be \(batch >= 1, 1, 64, 64\), got \(2, 1, 32, 64\)"):
        network(torch.zeros(2, 1, 32, 64))


def test_weights_are_kept_as_int8_biases_as_fp16_and_nothing_twice(path: Path):
    program = read_program(path)
    model = onnx_network(program)
    kept = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    counted = [one for one in kept.values() if one.ndim == 4 or one.dtype == np.float16]
    assert sum(one.nbytes for one in counted) == cost_of_program(program).model_bytes
    made_by = {node.output[0]: node for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in convolutions:
        signal, weight = made_by[node.input[0]], made_by[node.input[1]]
        assert (signal.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert kept[weight.input[0]].dtype == np.int8
    assert len(model.SerializeToString()) < sum(one.nbytes for one in kept.values()) + 120 * len(
        model.graph.node
    )
    assert {one.data_type for one in model.graph.initializer} <= {
        TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT64,
    }  # fmt: skip


def test_multiply_accumulates_are_counted_as_in_the_file(path: Path):
    program = read_program(path)
    assert macs_of_onnx(onnx_network(program)) == cost_of_program(program).macs


@pytest.mark.slow
def test_cp_mobile_says_the_same_too(heard: torch.Tensor):
    torch.manual_seed(0)
    program = quantize_int8(CpMobile(classes=3, width=8), [heard]).program()
    by_onnx = runtime.onnx_session(onnx_network(program).SerializeToString())(heard)
    assert agreement(by_onnx, program.module(check_guards=False)(heard)).logit_error < 0.02


def test_an_operator_without_a_form_is_named():
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.erfinv(x)

    with pytest.raises(UserError, match=r"aten\.erfinv\.default has no ONNX form yet: .*onnx_operators\.py"):
        onnx_network(torch.export.export(Odd(), (torch.zeros(2, 1, 4, 4),)))


def test_a_network_that_onnx_runtime_gets_wrong_is_run_as_the_file(
    path: Path, heard: torch.Tensor, monkeypatch: pytest.MonkeyPatch
):
    save_reference(Reference(heard.half().float(), load_form(path, PT2)(heard.half().float())), path)
    assert load_network(path).form == ONNX
    right = OnnxNetwork.__call__
    monkeypatch.setattr(OnnxNetwork, "__call__", lambda self, logmel: -right(self, logmel))
    network = load_network(path)
    assert network.form == PT2 and network.refused_difference == pytest.approx(2, abs=0.5)
    assert "ONNX Runtime says something else on this processor" in network.why
