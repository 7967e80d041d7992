"""Stage `predict` on an evaluation set: its answers, their order, resuming, and a file at fault."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from adaptf.data.errors import DataError
from adaptf.mlproject import predict as stage
from adaptf.mlproject.predict import PREDICTIONS, PredictConfig, predict
from adaptf.tracking.runs import StageRun

SCENES = ("airport", "bus")


class CountingRouter:
    """Answers as the router does; the scene tells the device, so that a wrong order would show."""

    def __init__(self, ends_at: int = 10**9, fault: str = "") -> None:
        self.asked, self.ends_at, self.fault = 0, ends_at, fault

    def predict(self, request: pd.DataFrame) -> pd.DataFrame:
        if self.asked + len(request) > self.ends_at:
            raise KeyboardInterrupt
        if self.fault:
            raise MlflowException.invalid_parameter_value(self.fault)
        self.asked += len(request)
        devices = list(request["device"])
        return pd.DataFrame(
            {
                "scene": [SCENES[device == "unknown"] for device in devices],
                "probability": 0.75,
                "device_asked": devices,
                "device_used": devices,
                "version_used": "adaptf-a/1",
                "probabilities": [{"airport": 0.25, "bus": 0.75}] * len(devices),
            }
        )


@pytest.fixture
def evaluation_set(tmp_path: Path) -> Path:
    """Ten files of which every third is from an unknown device."""
    root = tmp_path / "evaluation"
    (root / "evaluation_setup").mkdir(parents=True)
    (root / "audio").mkdir()
    lines = ["filename\tdevice_id"]
    for number in range(10):
        (root / f"audio/{number}.wav").write_bytes(b"audio")
        lines.append(f"audio/{number}.wav\t{'unknown' if number % 3 == 0 else 's1'}")
    (root / "evaluation_setup/test.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def predict_with(
    evaluation_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[CountingRouter], pd.DataFrame]:
    monkeypatch.setattr(stage, "FILES_PER_REQUEST", 4)
    monkeypatch.setattr(stage, "model_version", lambda uri: "adaptf-router/1")
    run = StageRun(run_id="", name="predict", folder=tmp_path / "work")
    run.folder.mkdir()

    def call(router: CountingRouter) -> pd.DataFrame:
        monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda uri: router)
        predict(PredictConfig(files=str(evaluation_set)), run)
        return pd.read_csv(run.folder / PREDICTIONS)

    return call


def test_an_evaluation_set_without_labels_gets_a_scene_per_file_in_its_order(
    predict_with: Callable[[CountingRouter], pd.DataFrame],
) -> None:
    predictions = predict_with(CountingRouter())
    assert predictions["filename"].tolist() == [f"audio/{number}.wav" for number in range(10)]
    assert predictions["device_asked"].tolist() == ["unknown" if number % 3 == 0 else "s1" for number in range(10)]
    assert predictions["scene"].tolist() == ["bus" if number % 3 == 0 else "airport" for number in range(10)]
    assert predictions[["airport", "bus"]].to_numpy().tolist() == [[0.25, 0.75]] * 10


def test_an_interrupted_prediction_asks_only_for_what_is_missing(
    predict_with: Callable[[CountingRouter], pd.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = CountingRouter(ends_at=8), CountingRouter()
    with pytest.raises(KeyboardInterrupt):
        predict_with(first)
    predictions = predict_with(second)
    assert (first.asked, second.asked) == (8, 2)
    assert predictions["filename"].tolist() == [f"audio/{number}.wav" for number in range(10)]
    assert "predict continues: 2 of 3 requests are answered" in capsys.readouterr().out


def test_a_file_that_the_router_refuses_is_named(predict_with: Callable[[CountingRouter], pd.DataFrame]) -> None:
    with pytest.raises(DataError, match=r"^audio/2\.wav: audio has samples up to 9; full scale is 1"):
        predict_with(CountingRouter(fault="row 2: audio has samples up to 9; full scale is 1"))
