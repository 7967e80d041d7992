"""INT8 networks run by a process that has nothing but the files."""

from pathlib import Path

import pytest
import torch

from adaptf.compression.fresh_process import fresh_process
from adaptf.compression.quantize import quantize_int8, save_forms
from adaptf.compression.runtime import PT2, load_form
from adaptf.errors import UserError
from adaptf.models.students.tfsepnet.network import TfSepNet


def test_a_fresh_process_runs_the_file_as_this_one_does_and_names_a_broken_one(tmp_path: Path):
    saved, logmel = tmp_path / "a.pt2", torch.randn(5, 1, 16, 16)
    torch.manual_seed(0)
    save_forms(quantize_int8(TfSepNet(classes=3, width=8, depth=4), [torch.randn(8, 1, 16, 16)]), saved)
    with fresh_process() as process:
        assert torch.allclose(process.network(saved, PT2)(logmel), load_form(saved, PT2)(logmel), atol=0.01)
        assert process.clip_ms(saved, PT2, logmel[:1]) > 0
        (tmp_path / "broken.pt2").write_bytes(saved.read_bytes()[:1000])
        with pytest.raises(UserError, match=r"broken\.pt2 is no complete \.pt2 file"):
            process.network(tmp_path / "broken.pt2", PT2)(logmel)
