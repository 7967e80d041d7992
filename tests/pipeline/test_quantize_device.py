"""Which clips ranges are taken from, which a device is told its accuracy of,
and what is done with the OpenVINO form."""

import platform
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from adaptf.compression.quantize import quantize_int8, save_forms
from adaptf.compression.runtime import NETWORK_FILES, X86
from adaptf.data.batch import WaveformBatch
from adaptf.models.students.tfsepnet.network import TfSepNet
from adaptf.pipeline.quantize_device import calibration_rows, openvino_form, shown_clips


def predicted(clips: int, device: str) -> pd.DataFrame:
    return pd.DataFrame({"filename": [f"{clip}.wav" for clip in range(clips)], "device": device})


def test_a_device_is_told_the_accuracy_on_its_own_clips_where_they_are_enough():
    every = pd.concat([predicted(6, "a"), predicted(4, "s1")])
    own, text = shown_clips(every, "s1", 4)
    assert (list(own["device"]), text) == (["s1"] * 4, "4 validation clips of s1")
    assert shown_clips(every, "s1", 5)[1] == "10 validation clips of all devices (only 4 are of s1)"
    assert shown_clips(every, "unknown", 5)[1] == "10 validation clips of all devices"


class Clips:
    """Sixty clips of three scenes and two devices, unevenly."""

    targets = np.eye(3)[[0] * 50 + [1] * 5 + [2] * 5]
    devices = np.array([0] * 45 + [1] * 5 + [0, 0, 0, 0, 1] + [0, 0, 0, 0, 1])

    def __getitem__(self, rows):
        return WaveformBatch(torch.tensor(rows), None)


def test_calibration_clips_take_turns_over_scenes_and_within_them_over_devices():
    rows = calibration_rows(Clips(), 12, seed=0).numpy()
    scenes, devices = Clips.targets[rows].argmax(axis=1), Clips.devices[rows]
    assert np.bincount(scenes).tolist() == [4, 4, 4]
    assert np.bincount(devices[scenes == 0]).tolist() == [2, 2]
    assert set(devices[scenes == 1]) == {0, 1}
    assert sorted(scenes[:3]) == sorted(scenes[3:6]) == [0, 1, 2]
    assert calibration_rows(Clips(), 6, seed=0).tolist() == rows[:6].tolist()
    assert calibration_rows(Clips(), 12, seed=1).tolist() != rows.tolist()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("int8") / "a.pt2"
    save_forms(quantize_int8(TfSepNet(classes=3, width=8, depth=4), [torch.randn(8, 1, 16, 16)]), path)
    return path


class Elsewhere:
    """A fresh process in which the forms say what they are told to, or break."""

    def __init__(self, logits: torch.Tensor | None) -> None:
        self.logits = logits

    def network(self, path, form):
        return self.logits

    def clip_ms(self, path, form, logmel):
        return 1.0


class Said:
    """Clips heard, of which 6 are for validation; what a network says of them is what it is."""

    calibration = (torch.zeros(1, 1, 16, 16),)
    validation = SimpleNamespace(filenames=[f"{clip}.wav" for clip in range(6)])

    def logits(self, network):
        if network is None:
            raise AttributeError("no kernel")
        return network

    def of_validation(self, logits):
        return logits[-6:]


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    path = tmp_path / "a.pt2"
    for suffix in NETWORK_FILES:
        path.with_suffix(suffix).write_bytes(saved.with_suffix(suffix).read_bytes())
    return path


@pytest.mark.slow
def test_an_openvino_form_that_nobody_could_check_is_removed(saved: Path, copied: Path, monkeypatch, capsys):
    for machine in ("x86_64", "aarch64"):
        for suffix in NETWORK_FILES:
            copied.with_suffix(suffix).write_bytes(saved.with_suffix(suffix).read_bytes())
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert openvino_form(copied, Elsewhere(None), Said(), torch.zeros(8, 2), pd.DataFrame()) is None
        assert sorted(file.name for file in copied.parent.iterdir()) == ["a.npz", "a.pt2"]
    said = capsys.readouterr().out
    assert "no kernel" in said and "the processor is not x86 but aarch64" in said


@pytest.mark.slow
@pytest.mark.skipif(platform.machine().lower() not in X86, reason="the OpenVINO form is for x86")
def test_an_openvino_form_stays_where_its_logits_are_near_though_a_near_tie_falls_to_the_other_scene(
    copied: Path, capsys
):
    of_file = torch.tensor([[1.0, -1.0], [-1.0, 1.0]] * 3 + [[0.001, 0.0]] * 2)
    table = pd.DataFrame(
        {"filename": Said.validation.filenames, "scene": "bus", "predicted": "bus", "bus": 1.0, "tram": 0.0}
    )
    near = of_file.clone()
    near[-1] = torch.tensor([0.0, 0.001])
    form = openvino_form(copied, Elsewhere(near), Said(), of_file, table)
    assert form is not None and form.agreement.same_scene == 7 / 8 and form.accuracy == pytest.approx(3 / 6)
    shown = table[table["filename"].isin(["2.wav", "4.wav"])]
    own = openvino_form(copied, Elsewhere(near), Said(), of_file, shown)
    assert own is not None and own.accuracy == 1  # of the clips shown alone
    assert openvino_form(copied, Elsewhere(of_file * 1.5), Said(), of_file, table) is None
    assert sorted(file.name for file in copied.parent.iterdir()) == ["a.npz", "a.pt2"]
    assert "its logits differ by 0.50 of their spread, at most 0.1 is allowed" in capsys.readouterr().out
