"""What may not go on: by quantization, by promotion."""

import mlflow
import pytest

from adaptf.compression.complexity import Complexity
from adaptf.mlproject.promote import gate
from adaptf.mlproject.quantize import Quantized, calibration_rows, problems_of

WITHIN = Complexity(126_858, 29_419_648, 126_868, 132_328, 143_248)
TOO_LARGE = Complexity(128_586, 30_740_608, 128_596, 134_000, 145_000)


def quantized(**changes) -> Quantized:
    values = {
        "device": "s1",
        "float_accuracy": 0.6,
        "int8_accuracy": 0.595,
        "int8_convolutions": 43,
        "convolutions": 43,
        "complexity": WITHIN,
        "judged_on": "200 validation clips of s1",
        "calibration_clips": 64,
    }
    return Quantized(**(values | changes))


def test_a_good_int8_model_may_go_on():
    assert problems_of(quantized(), 0.01) == []


def test_a_better_int8_model_has_a_negative_loss():
    assert quantized(int8_accuracy=0.63).relative_loss == pytest.approx(-0.05)


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
    assert message in problems_of(quantized(**changes), 0.01)


class Batch:
    def __init__(self, x):
        self.x = x


def test_calibration_clips_take_turns_over_the_scenes():
    import numpy as np

    class Clips:
        targets = np.eye(3)[[0] * 50 + [1] * 5 + [2] * 5]

        def __len__(self):
            return 60

        def __getitem__(self, rows):
            return Batch(rows)

    rows = calibration_rows(Clips(), 15, seed=0)
    scenes = Clips.targets[rows].argmax(axis=1)
    assert np.bincount(scenes).tolist() == [5, 5, 5]


@pytest.fixture
def version(tmp_path):
    former = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    client = mlflow.MlflowClient()
    client.create_registered_model("adaptf-s1")

    def make(**tags: str) -> str:
        return str(client.create_model_version("adaptf-s1", source=str(tmp_path), tags=tags).version)

    yield make
    mlflow.set_tracking_uri(former)


GOOD = {"adaptf.relative_loss": "0.8", "adaptf.macs": "29419648", "adaptf.model_bytes": "126868"}


def test_a_version_within_all_limits_passes_the_gate(version):
    assert gate("adaptf-s1", version(**GOOD), 0.01) == []


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"adaptf.relative_loss": "1.2"}, "1.2 percent relative loss by quantization, at most 1 are allowed"),
        ({"adaptf.model_bytes": "128596"}, "128,596 bytes, at most 128,000 are allowed"),
        ({"adaptf.macs": "30740608"}, "30,740,608 MACs, at most 30,000,000 are allowed"),
    ],
)
def test_a_version_over_a_limit_is_not_promoted(version, tags, message):
    (problem,) = gate("adaptf-s1", version(**(GOOD | tags)), 0.01)
    assert message in problem


def test_a_version_that_adaptf_did_not_register_is_not_promoted(version):
    problems = gate("adaptf-s1", version(), 0.01)
    assert len(problems) == 3
    assert "was not registered by `register`" in problems[0]


def test_an_absent_version_is_named(version):
    version(**GOOD)
    assert gate("adaptf-s1", "7", 0.01) == ["adaptf-s1 has no version 7"]
