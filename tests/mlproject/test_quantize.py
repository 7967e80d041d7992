"""Which INT8 models may go on, which clips ranges are taken from, and what is done with the OpenVINO form."""

import math
import platform
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from adaptf.audio.logmel import LogMel
from adaptf.compression import fresh_process as fresh
from adaptf.compression.agreement import Agreement
from adaptf.compression.complexity import Complexity
from adaptf.compression.form_cost import FormCost
from adaptf.compression.quantize import quantize_int8, save_forms
from adaptf.compression.runtime import NETWORK_FILES, PT2, X86, load_form
from adaptf.data.batch import WaveformBatch
from adaptf.data.clips import TAU_SCENES, VALIDATION
from adaptf.data.sets.split import cut_by_location
from adaptf.errors import UserError
from adaptf.mlproject.quantize import (
    Loss,
    OpenVinoForm,
    QuantizeConfig,
    Quantized,
    calibration_rows,
    complexity_of,
    judge,
    loss_of,
    openvino_form,
    problems_of,
    report,
    shown_clips,
    summary_of,
)
from adaptf.models.classifier import Classifier, ModelDescription
from adaptf.models.tfsepnet import TfSepNet
from adaptf.pipeline.config import DataConfig
from adaptf.promotion.comparison import compare

WITHIN = Complexity(512, 64, 126_858, 29_419_648, 126_868, 132_328, 143_248)
TOO_LARGE = Complexity(512, 65, 128_586, 30_740_608, 128_596, 134_000, 145_000)
COST = FormCost(macs=29_413_888, model_bytes=126_868)
FORM = OpenVinoForm(accuracy=0.59, agreement=Agreement(0.02, 0.998), cost=COST, clip_ms=1.0)
FOUND = Quantized(
    device="s1",
    float_accuracy=0.6,
    int8_accuracy=0.595,
    loss=Loss(relative=0.008, standing=0.0),
    agreement=Agreement(0.05, 0.97),
    int8_convolutions=46,
    convolutions=46,
    complexity=WITHIN,
    cost=COST,
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


DEFAULTS = QuantizeConfig()


def test_a_good_int8_model_may_go_on():
    assert problems_of(FOUND, DEFAULTS) == []


def test_a_loss_that_chance_may_have_made_is_no_reason():
    assert problems_of(replace(FOUND, int8_accuracy=0.54, loss=Loss(0.1, 0.009)), DEFAULTS) == []
    assert problems_of(replace(FOUND, int8_accuracy=0.54, loss=Loss(0.1, 0.0)), DEFAULTS) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": Loss(0.05, 0.021)},
            "s1: a relative loss of 5.0%, of which 2.1% stand over places, on the validation clips of all devices, "
            "tolerable is 1.0%",
        ),
        (
            {"agreement": Agreement(0.31, 0.7)},
            "s1: INT8 logits differ from float ones by 0.31 of their spread, tolerable is 0.15",
        ),
        (
            {"agreement": Agreement(math.nan, 0.7)},
            "s1: INT8 logits differ from float ones by nan of their spread, tolerable is 0.15",
        ),
        ({"int8_convolutions": 45}, "s1: 45 of 46 convolutions are INT8"),
        ({"complexity": TOO_LARGE}, "s1: 128,596 bytes of parameters, at most 128,000 allowed"),
        ({"complexity": TOO_LARGE}, "s1: 30,740,608 multiply-accumulates, at most 30,000,000 allowed"),
        (
            {"cost": FormCost(102_557_824, 126_868)},
            "s1: 102,557,824 multiply-accumulates, at most 30,000,000 allowed (counted in its file)",
        ),
    ],
)
def test_a_bad_int8_model_is_refused_with_its_figures(changes, message):
    assert message in problems_of(replace(FOUND, **changes), DEFAULTS)


def test_a_model_that_loses_too_much_stops_the_stage_or_is_told_where_nothing_is_deployed():
    lossy = replace(FOUND, loss=Loss(0.3, 0.2))
    with pytest.raises(UserError, match=r"s1: a relative loss of 30.0%"):
        judge([FOUND, lossy], DEFAULTS)
    assert "s1: a relative loss of 30.0%" in judge([FOUND, lossy], QuantizeConfig(refuse=False))
    assert judge([FOUND], DEFAULTS) == "every INT8 model may go on"


def predicted(right: dict[str, list[bool]], device: str = "a") -> pd.DataFrame:
    """Twenty clips of each of two scenes, two a place, by whether they are recognised."""
    rows = [
        {"filename": f"{scene}{clip}", "scene": scene, "predicted": scene if known else "none", "device": device}
        | {"location": f"{scene}-{clip // 2}"}
        for scene, clips in right.items()
        for clip, known in enumerate(clips)
    ]
    return pd.DataFrame(rows)


def test_a_loss_stands_where_most_places_show_it_and_not_where_one_or_two_do():
    exact = predicted({"bus": [True] * 20, "tram": [True] * 20})
    one_clip = loss_of(predicted({"bus": [False] + [True] * 19, "tram": [True] * 20}), exact)
    assert one_clip == Loss(pytest.approx(0.025), 0.0)
    every_place = loss_of(predicted({"bus": [False, True] * 10, "tram": [True] * 20}), exact)
    assert every_place == Loss(pytest.approx(0.25), pytest.approx(0.25))
    few = {"bus": [True] * 4, "tram": [True] * 4}
    two_clips = loss_of(predicted({"bus": [False, True, False, True], "tram": [True] * 4}), predicted(few))
    assert two_clips == Loss(pytest.approx(0.25), 0.0)
    assert loss_of(exact, predicted({"bus": [False] * 20, "tram": [False] * 20})) == Loss(0.0, 0.0)


def test_nothing_stands_where_a_scene_has_one_place_only():
    exact = predicted({"bus": [True] * 20, "tram": [True] * 2})
    assert loss_of(predicted({"bus": [False] * 20, "tram": [True] * 2}), exact) == Loss(pytest.approx(0.5), 0.0)


@pytest.mark.slow
def test_without_a_true_loss_chance_refuses_hardly_any_model():
    """Of 400 clips of 200 places a twentieth changes sides for no reason, as often to the right scene as away from it."""
    generator, refused = np.random.default_rng(0), 0
    scenes = [f"scene{number}" for number in range(10)]
    for _ in range(60):
        known = {scene: generator.random(40) < 0.5 for scene in scenes}
        turned = {scene: known[scene] ^ (generator.random(40) < 0.05) for scene in scenes}
        refused += loss_of(predicted(turned), predicted(known)).standing > 0.01
    assert refused <= 1


def official_validation(official_clips) -> pd.DataFrame:
    """The default validation part of the official 25 % list, with the recording of each clip."""
    data = DataConfig()
    table = cut_by_location(official_clips("25"), share=data.validation_share, to=VALIDATION, seed=data.split_seed)
    table = table[table["split"] == VALIDATION].reset_index(drop=True)
    return table.assign(recording=table["filename"].str.replace(r"-\d+-(\w+)\.wav", r"-\1", regex=True), split=None)


def effect(generator, groups: pd.Series, deviation: float) -> np.ndarray:
    """(clips,) the same draw for all clips of a group."""
    codes, names = pd.factorize(groups)
    return deviation * generator.standard_normal(len(names))[codes]


def predicted_where(margin: np.ndarray, clips: pd.DataFrame) -> pd.DataFrame:
    return clips.assign(predicted=clips["scene"].where(margin > 0, "none"))


def test_without_a_true_loss_no_model_is_refused_on_the_official_list(official_clips):
    """A network that is right on some 58 % of the clips, alike within scenes, places and recordings, and an INT8 form whose
    logits differ, alike within recordings too: it changes a few per cent of the clips, as often for the better."""
    clips, generator, changed = official_validation(official_clips), np.random.default_rng(1), []
    for _ in range(20):
        exact = 0.2 + sum(effect(generator, clips[name], 0.5) for name in ("scene", "location", "recording", "filename"))
        int8 = exact + effect(generator, clips["recording"], 0.05) + effect(generator, clips["filename"], 0.07)
        changed.append(np.mean((exact > 0) != (int8 > 0)))
        assert loss_of(predicted_where(int8, clips), predicted_where(exact, clips)).standing <= 0.01
    assert 0.01 < np.mean(changed) < 0.05


def test_every_device_of_the_official_list_can_be_compared_and_a_truly_worse_model_is_refused(official_clips):
    clips, generator = official_validation(official_clips), np.random.default_rng(2)
    clips = clips.drop(columns=["split", "recording"]).assign(**dict.fromkeys(TAU_SCENES, 0.0))
    shared = 0.2 + sum(effect(generator, clips[name], 0.5) for name in ("scene", "location", "filename"))
    for device in ("a", "b", "c", "s1", "s2", "s3", "unknown"):
        one, other = (predicted_where(shared + effect(generator, clips["filename"], 0.3), clips) for _ in range(2))
        judged, difference = compare(one, other, device)
        assert judged.of == ("of all devices" if device == "unknown" else f"of {device}") and judged.absent == ()
        assert difference.p > 0.01 and len(judged.filenames) >= 100 and difference.locations >= 10
        worse = predicted_where(shared - 1, clips)
        assert compare(one, worse, device)[1].high < 0


def test_a_device_is_told_the_accuracy_on_its_own_clips_where_they_are_enough():
    every = pd.concat([predicted({"bus": [True] * 6}), predicted({"bus": [True] * 4}, device="s1")])
    own, text = shown_clips(every, "s1", 4)
    assert (list(own["device"]), text) == (["s1"] * 4, "4 validation clips of s1")
    assert shown_clips(every, "s1", 5)[1] == "10 validation clips of all devices (only 4 are of s1)"
    assert shown_clips(every, "unknown", 5)[1] == "10 validation clips of all devices"


def test_the_table_has_both_forms_and_a_model_without_the_faster_one_has_gaps():
    table = report([FOUND, replace(FOUND, device="a", openvino=None)])
    assert list(table["OpenVINO ms"].isna()) == [False, True]
    assert table.loc["s1", "OpenVINO same scene"] == pytest.approx(99.8)
    assert table.loc["s1", "served bytes"] == 126_868
    assert (table["frames"] == 64).all()
    assert "no OpenVINO form" in summary_of(replace(FOUND, openvino=None))


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


@pytest.mark.slow
def test_a_fresh_process_runs_the_file_as_this_one_does_and_names_a_broken_one(saved: Path, tmp_path: Path):
    logmel = torch.randn(5, 1, 16, 16)
    with fresh.fresh_process() as process:
        assert torch.allclose(process.network(saved, PT2)(logmel), load_form(saved, PT2)(logmel), atol=0.01)
        assert process.clip_ms(saved, PT2, logmel[:1]) > 0
        (tmp_path / "broken.pt2").write_bytes(saved.read_bytes()[:1000])
        with pytest.raises(UserError, match=r"broken\.pt2 is no complete \.pt2 file"):
            process.network(tmp_path / "broken.pt2", PT2)(logmel)


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
            raise RuntimeError("no kernel")
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
def test_an_openvino_form_stays_where_its_logits_are_near_though_a_near_tie_falls_to_the_other_scene(copied: Path, capsys):
    of_file = torch.tensor([[1.0, -1.0], [-1.0, 1.0]] * 3 + [[0.001, 0.0]] * 2)
    table = pd.DataFrame({"filename": Said.validation.filenames, "scene": "bus", "predicted": "bus", "bus": 1.0, "tram": 0.0})
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
