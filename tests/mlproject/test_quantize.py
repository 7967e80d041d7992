"""Which INT8 models may go on, which clips ranges are taken from, and what is done with the OpenVINO form."""

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from adaptf.audio.logmel import LogMel
from adaptf.compression import fresh_process as fresh
from adaptf.compression.complexity import Complexity
from adaptf.compression.quantize import quantize_int8, save_forms
from adaptf.compression.runtime import FORMS, PT2, load_form
from adaptf.errors import UserError
from adaptf.mlproject.quantize import (
    OpenVinoForm,
    QuantizeConfig,
    Quantized,
    calibration_rows,
    complexity_of,
    judge,
    openvino_form,
    problems_of,
    report,
    summary_of,
)
from adaptf.models.classifier import Classifier, ModelDescription
from adaptf.models.tfsepnet import TfSepNet

WITHIN = Complexity(512, 64, 126_858, 29_419_648, 126_868, 132_328, 143_248)
TOO_LARGE = Complexity(512, 65, 128_586, 30_740_608, 128_596, 134_000, 145_000)
FORM = OpenVinoForm(accuracy=0.59, clips=500, other_scenes=1, largest_difference=0.02, clip_ms=1.0)
FOUND = Quantized(
    device="s1",
    float_accuracy=0.6,
    int8_accuracy=0.595,
    int8_convolutions=43,
    convolutions=43,
    complexity=WITHIN,
    judged_on="200 validation clips of s1",
    calibration_clips=64,
    ranges="kl, asymmetric",
    trials=1,
    float_ms=6.0,
    pt2_ms=7.0,
    openvino=FORM,
    predictions=pd.DataFrame(),
    float_predictions=pd.DataFrame(),
)


def test_a_good_int8_model_may_go_on():
    assert problems_of(FOUND, 0.01) == []


def test_a_better_int8_model_has_a_negative_loss():
    assert replace(FOUND, int8_accuracy=0.63).relative_loss == pytest.approx(-0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"int8_accuracy": 0.57},
            "s1: accuracy falls from 0.600 to 0.570 on 200 validation clips of s1, a relative loss of 5.0%, tolerable is 1.0%",
        ),
        ({"int8_convolutions": 42}, "s1: 42 of 43 convolutions are INT8"),
        ({"complexity": TOO_LARGE}, "s1: 128,596 bytes of parameters, at most 128,000 allowed"),
        ({"complexity": TOO_LARGE}, "s1: 30,740,608 multiply-accumulates, at most 30,000,000 allowed"),
    ],
)
def test_a_bad_int8_model_is_refused_with_its_figures(changes, message):
    assert message in problems_of(replace(FOUND, **changes), 0.01)


def test_a_model_that_loses_too_much_stops_the_stage_or_is_told_where_nothing_is_deployed():
    lossy = replace(FOUND, int8_accuracy=0.4)
    with pytest.raises(UserError, match=r"s1: accuracy falls from 0.600 to 0.400"):
        judge([FOUND, lossy], QuantizeConfig())
    assert "s1: accuracy falls from 0.600 to 0.400" in judge([FOUND, lossy], QuantizeConfig(refuse=False))
    assert judge([FOUND], QuantizeConfig()) == "every INT8 model may go on"


def test_the_table_has_both_forms_and_a_model_without_the_faster_one_has_gaps():
    table = report([FOUND, replace(FOUND, device="a", openvino=None)])
    assert list(table["OpenVINO ms"].isna()) == [False, True]
    assert table.loc["s1", "OpenVINO same class"] == pytest.approx(99.8)
    assert (table["frames"] == 64).all()
    assert "no OpenVINO form" in summary_of(replace(FOUND, openvino=None))


@pytest.mark.parametrize(
    ("others", "clips", "agrees"), [(5, 1000, True), (6, 1000, False), (1, 171, True), (1, 3, True), (2, 399, False)]
)
def test_forms_agree_on_nearly_all_clips_or_on_all_but_one(others, clips, agrees):
    assert replace(FORM, other_scenes=others, clips=clips).agrees(0.995) == agrees


class Clips:
    """Sixty clips of three scenes and two devices, unevenly."""

    targets = np.eye(3)[[0] * 50 + [1] * 5 + [2] * 5]
    devices = np.array([0] * 45 + [1] * 5 + [0, 0, 0, 0, 1] + [0, 0, 0, 0, 1])

    def __getitem__(self, rows):
        return type("Batch", (), {"x": torch.tensor(rows)})


def test_calibration_clips_take_turns_over_scenes_and_within_them_over_devices():
    rows = calibration_rows(Clips(), 12, seed=0).numpy()
    scenes, devices = Clips.targets[rows].argmax(axis=1), Clips.devices[rows]
    assert np.bincount(scenes).tolist() == [4, 4, 4]
    assert np.bincount(devices[scenes == 0]).tolist() == [2, 2]
    assert set(devices[scenes == 1]) == {0, 1}
    assert sorted(scenes[:3]) == sorted(scenes[3:6]) == [0, 1, 2]
    assert calibration_rows(Clips(), 6, seed=0).tolist() == rows[:6].tolist()
    assert calibration_rows(Clips(), 12, seed=1).tolist() != rows.tolist()


def test_a_log_mel_with_a_frame_too_many_is_refused():
    class Centred(LogMel):
        def forward(self, waveform):
            return nn.functional.pad(super().forward(waveform), (0, 1))

    def classifier(features):
        return Classifier(ModelDescription("tfsepnet", ("a", "b")), features, TfSepNet(classes=2, width=4))

    assert complexity_of(classifier(LogMel(bands=64)), 32000).frames == 64
    with pytest.raises(UserError, match=r"a clip of 32,000 samples has 65 frames of 500 samples, 64 are right"):
        complexity_of(classifier(Centred(bands=64)), 32000)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("int8") / "a.pt2"
    save_forms(quantize_int8(TfSepNet(classes=3, width=8, depth=4), [torch.randn(8, 1, 16, 16)]), path)
    return path


def test_a_fresh_process_runs_the_file_as_this_one_does_and_names_a_broken_one(saved: Path, tmp_path: Path):
    logmel = torch.randn(5, 1, 16, 16)
    with fresh.fresh_process() as process:
        assert torch.allclose(process.network(saved, PT2)(logmel), load_form(saved, PT2)(logmel), atol=0.01)
        assert process.clip_ms(saved, PT2, logmel[:1]) > 0
        (tmp_path / "broken.pt2").write_bytes(saved.read_bytes()[:1000])
        with pytest.raises(UserError, match=r"broken\.pt2 is no complete \.pt2 file"):
            process.network(tmp_path / "broken.pt2", PT2)(logmel)


class OtherScenes:
    """A fresh process in which the OpenVINO form says something else."""

    def network(self, path, form):
        return form

    def clip_ms(self, path, form, logmel):
        return 1.0


class NoOpenVino(OtherScenes):
    """A fresh process in which OpenVINO cannot compile the form."""

    def network(self, path, form):
        raise RuntimeError("no kernel")


def test_an_openvino_form_that_nobody_could_check_is_removed(saved: Path, tmp_path: Path, monkeypatch, capsys):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    path = tmp_path / "a.pt2"
    for machine in ("x86_64", "aarch64"):
        for suffix in FORMS:
            path.with_suffix(suffix).write_bytes(saved.with_suffix(suffix).read_bytes())
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert openvino_form(QuantizeConfig(), path, NoOpenVino(), lambda form: None, pd.DataFrame(), torch.zeros(1)) is None
        assert [file.name for file in tmp_path.iterdir()] == ["a.pt2"]
    said = capsys.readouterr().out
    assert "no kernel" in said and "the processor is not x86 but aarch64" in said


def test_an_openvino_form_that_says_other_scenes_is_removed(saved: Path, tmp_path: Path, capsys):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    path = tmp_path / "a.pt2"
    for suffix in FORMS:
        path.with_suffix(suffix).write_bytes(saved.with_suffix(suffix).read_bytes())
    of_file = pd.DataFrame({"scene": ["bus"] * 40, "predicted": ["bus"] * 40, "bus": 1.0, "tram": 0.0})
    others = of_file.assign(predicted=["tram"] * 2 + ["bus"] * 38)
    assert openvino_form(QuantizeConfig(), path, OtherScenes(), lambda form: of_file, of_file, torch.zeros(1)) is not None
    assert openvino_form(QuantizeConfig(), path, OtherScenes(), lambda form: others, of_file, torch.zeros(1)) is None
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt2"]
    assert "says another scene on 2 of 40 clips, it is removed" in capsys.readouterr().out
