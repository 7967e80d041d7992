"""INT8 networks run by a process that has nothing but the files."""

import platform
from pathlib import Path

import pytest
import torch

from adaptf.compression.fresh_process import fresh_process
from adaptf.compression.quantize import quantize_int8, save_forms
from adaptf.compression.runtime import OPENVINO, PT2, X86, load_form
from adaptf.errors import UserError
from adaptf.models.students.tfsepnet.network import TfSepNet

CRASHING = """
import os, signal

def Core():
    os.kill(os.getpid(), signal.SIGSEGV)

def convert_model(program):
    os.kill(os.getpid(), signal.SIGILL)
"""
"""A package in the place of OpenVINO."""


@pytest.mark.slow
def test_a_fresh_process_runs_the_file_as_this_one_does_names_a_broken_one_and_survives_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (made := tmp_path / "made").mkdir()
    saved, logmel = made / "a.pt2", torch.randn(5, 1, 16, 16)
    torch.manual_seed(0)
    quantized = quantize_int8(TfSepNet(classes=3, width=8, depth=4), [torch.randn(8, 1, 16, 16)])
    (tmp_path / "openvino.py").write_text(CRASHING)
    monkeypatch.syspath_prepend(tmp_path)
    with fresh_process() as process:
        save_forms(quantized, saved, process.convert)
        assert (
            "a.pt2 gets no OpenVINO form: BrokenProcessPool: its process crashed" in capsys.readouterr().out
        )
        assert sorted(file.name for file in made.iterdir()) == ["a.npz", "a.pt2"]
        for suffix in (".xml", ".bin"):
            saved.with_suffix(suffix).touch()
        assert torch.allclose(process.network(saved, PT2)(logmel), load_form(saved, PT2)(logmel), atol=0.01)
        assert process.clip_ms(saved, PT2, logmel[:1]) > 0
        (tmp_path / "broken.pt2").write_bytes(saved.read_bytes()[:1000])
        with pytest.raises(UserError, match=r"broken\.pt2 is no complete \.pt2 file"):
            process.network(tmp_path / "broken.pt2", PT2)(logmel)
        if platform.machine().lower() in X86:
            with pytest.raises(RuntimeError, match="its process crashed"):
                process.network(saved, OPENVINO)(logmel)
            assert process.network(saved, PT2)(logmel).shape == (5, 3)
