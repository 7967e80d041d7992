"""A form that says something else on this processor than where it was made is not used, and that is said."""

import platform
from pathlib import Path

import pytest
import torch

from adaptf.compression import runtime
from adaptf.compression.agreement import Reference, read_reference, save_reference
from adaptf.compression.quantize import quantize_int8, save_forms
from adaptf.compression.runtime import (
    NETWORK_FILES,
    ONNX,
    OPENVINO,
    ExportedNetwork,
    OnnxNetwork,
    OpenVinoNetwork,
    load_network,
)
from adaptf.errors import UserError
from adaptf.models.students.tfsepnet.network import TfSepNet

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
pytestmark = [
    pytest.mark.arithmetic,
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine().lower() not in runtime.X86, reason="the OpenVINO form is for x86"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("forms") / "s1.pt2"
    save_forms(quantize_int8(TfSepNet(classes=3, width=8, depth=4), [torch.randn(20, 1, 32, 16)]), path)
    return path


@pytest.fixture
def path(saved: Path, tmp_path: Path) -> Path:
    for suffix in NETWORK_FILES:
        (tmp_path / saved.name).with_suffix(suffix).write_bytes(saved.with_suffix(suffix).read_bytes())
    return tmp_path / saved.name


def test_the_form_that_says_what_the_file_said_is_used(path: Path) -> None:
    network, kept = load_network(path), read_reference(path)
    assert (network.form, network.why, network.refused_difference) == (OPENVINO, "", None)
    assert kept is not None and kept.logmel.shape == (16, 1, 32, 16) and kept.logits.shape == (16, 3)


def test_an_openvino_form_whose_sums_overflow_is_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = OpenVinoNetwork.__call__
    monkeypatch.setattr(OpenVinoNetwork, "__call__", lambda self, logmel: right(self, logmel).clamp(max=0))
    network = load_network(path)
    assert network.form == ONNX
    assert network.why.startswith("OpenVINO says something else on this processor than where it was made")
    assert network.refused_difference is not None and network.refused_difference > runtime.LARGEST_DIFFERENCE


def test_a_network_of_which_no_form_says_what_it_should_is_refused(path: Path) -> None:
    kept = read_reference(path)
    assert kept is not None
    save_reference(Reference(kept.logmel, -kept.logits), path)
    with pytest.raises(
        UserError, match=r"s1\.pt2 says something else on this processor .* no other form of it does better"
    ):
        load_network(path)


def test_a_network_without_clips_to_try_it_with_serves_all_the_same(path: Path) -> None:
    path.with_suffix(".npz").unlink()
    assert load_network(path).form == OPENVINO


def test_a_network_that_gives_no_numbers_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for form in (OpenVinoNetwork, OnnxNetwork, ExportedNetwork):
        monkeypatch.setattr(form, "__call__", lambda self, logmel: torch.full((len(logmel), 3), torch.nan))
    with pytest.raises(UserError, match="differ by nan of their spread"):
        load_network(path)


def test_clips_of_another_task_are_refused(path: Path) -> None:
    kept = read_reference(path)
    assert kept is not None
    save_reference(Reference(kept.logmel, torch.zeros(16, 5)), path)
    with pytest.raises(UserError, match=r"logits kept are \(16, 5\), its own \(16, 3\)"):
        load_network(path)
