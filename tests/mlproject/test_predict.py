"""Stage `predict` on an evaluation set: its answers, their order, both tables, resuming, one version, and files at fault."""

import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from mlflow.exceptions import MlflowException

from adaptf.compression.int8 import save_int8
from adaptf.compression.quantize import quantize_int8
from adaptf.data.errors import DataError
from adaptf.errors import UserError
from adaptf.mlproject import predict as stage
from adaptf.mlproject.predict import OUTPUT, PREDICTIONS, PredictConfig, files_digest, predict, present_version
from adaptf.models.tfsepnet import TfSepNet
from adaptf.tracking import production, registry
from adaptf.tracking.bundle import write_bundle
from adaptf.tracking.runs import Result, StageRun

SCENES = ("airport", "bus")
Predict = Callable[["CountingRouter"], pd.DataFrame]


class CountingRouter:
    """Answers as the router does; the scene tells the device, so that a wrong order would show."""

    def __init__(self, ends_at: int = 10**9, fault: str = "", version: str = "adaptf-a/1") -> None:
        self.ends_at, self.fault, self.version = ends_at, fault, version
        self.requests: list[int] = []
        self.loaded: list[tuple[str, Any]] = []

    @property
    def asked(self) -> int:
        return sum(self.requests)

    def predict(self, request: pd.DataFrame) -> pd.DataFrame:
        if self.asked + len(request) > self.ends_at:
            raise KeyboardInterrupt
        if self.fault:
            raise MlflowException.invalid_parameter_value(self.fault)
        self.requests.append(len(request))
        devices = list(request["device"])
        return pd.DataFrame(
            {
                "scene": [SCENES[device == "unknown"] for device in devices],
                "probability": 0.75,
                "device_asked": devices,
                "device_used": devices,
                "version_used": self.version,
                "probabilities": [{"airport": 0.25, "bus": 0.75}] * len(devices),
            }
        )


def write_evaluation_set(root: Path, files: int) -> Path:
    """A tenth of a second of noise each; every third is from an unknown device."""
    (root / "evaluation_setup").mkdir(parents=True)
    (root / "audio").mkdir()
    generator, lines = np.random.default_rng(0), ["filename\tdevice_id"]
    for number in range(files):
        soundfile.write(root / f"audio/{number}.wav", 0.1 * generator.standard_normal(800), 8000)
        lines.append(f"audio/{number}.wav\t{'unknown' if number % 3 == 0 else 's1'}")
    (root / "evaluation_setup/test.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def evaluation_set(tmp_path: Path) -> Path:
    return write_evaluation_set(tmp_path / "evaluation", 10)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def run_with(evaluation_set: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[CountingRouter], Result]:
    """Runs the stage: four files a part, one request at a time, version 1 of the router in production."""
    monkeypatch.setattr(stage, "FILES_PER_PART", 4)
    monkeypatch.setattr(stage, "REQUESTS_AT_ONCE", 1)
    monkeypatch.setattr(production, "resolve_production", lambda name: "1")
    run = StageRun(run_id="", name="predict", folder=work)

    def call(router: CountingRouter) -> Result:
        def load(uri: str, **settings: Any) -> CountingRouter:
            router.loaded.append((uri, settings))
            return router

        monkeypatch.setattr(mlflow.pyfunc, "load_model", load)
        return predict(PredictConfig(files=str(evaluation_set)), run)

    return call


@pytest.fixture
def predict_with(run_with: Callable[[CountingRouter], Result], work: Path) -> Predict:
    """Runs the stage and reads its table."""

    def call(router: CountingRouter) -> pd.DataFrame:
        run_with(router)
        return pd.read_csv(work / PREDICTIONS)

    return call


def test_an_evaluation_set_without_labels_gets_a_scene_per_file_in_its_order(predict_with: Predict) -> None:
    predictions = predict_with(CountingRouter())
    assert predictions["filename"].tolist() == [f"audio/{number}.wav" for number in range(10)]
    assert predictions["device_asked"].tolist() == ["unknown" if number % 3 == 0 else "s1" for number in range(10)]
    assert predictions["scene"].tolist() == ["bus" if number % 3 == 0 else "airport" for number in range(10)]
    assert predictions[["airport", "bus"]].to_numpy().tolist() == [[0.25, 0.75]] * 10


def test_the_challenge_gets_its_table(predict_with: Predict, work: Path) -> None:
    predict_with(CountingRouter())
    first, second, *others = (work / OUTPUT).read_text().splitlines()
    assert first == "filename\tscene_label\tairport\tbus"
    assert second == "audio/0.wav\tbus\t0.25\t0.75"
    assert len(others) == 9


def test_files_are_counted_by_the_version_that_was_used(run_with: Callable[[CountingRouter], Result]) -> None:
    result = run_with(CountingRouter())
    assert "| s1 | adaptf-a/1 | 6 |\n| unknown | adaptf-a/1 | 4 |" in result.summary
    assert result.tags == {"adaptf.model": "adaptf-router/1"}


def test_an_interrupted_prediction_asks_only_for_what_is_missing(
    predict_with: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = CountingRouter(ends_at=8), CountingRouter()
    with pytest.raises(KeyboardInterrupt):
        predict_with(first)
    predictions = predict_with(second)
    assert (first.asked, second.asked) == (8, 2)
    assert predictions["filename"].tolist() == [f"audio/{number}.wav" for number in range(10)]
    assert "predict: 2 of 3 parts are answered, goes on with audio/8.wav" in capsys.readouterr().out


def test_answers_of_a_version_that_was_replaced_are_not_kept(predict_with: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        predict_with(CountingRouter(ends_at=8))
    monkeypatch.setattr(production, "resolve_production", lambda name: "2")
    newer = CountingRouter(version="adaptf-a/2")
    predictions = predict_with(newer)
    assert newer.asked == 10
    assert set(predictions["version_used"]) == {"adaptf-a/2"}


def test_the_version_is_looked_up_once_and_follows_no_promotion(predict_with: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(production, "resolve_production", lambda name: asked.append(name) or str(len(asked)))
    router = CountingRouter()
    predict_with(router)
    assert asked == ["adaptf-router"]
    assert router.loaded == [("models:/adaptf-router/1", {"model_config": {"live": False}})]


def test_another_version_is_other_work(evaluation_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, digests = PredictConfig(files=str(evaluation_set)), set()
    for version in ("1", "2", "1"):
        monkeypatch.setattr(production, "resolve_production", lambda name, version=version: version)
        digests.add(files_digest(config))
    assert len(digests) == 2


@pytest.mark.parametrize("uri", ["models:/adaptf-router/3", "models:/m-0123456789abcdef", "runs:/1a2b/model", "some/folder"])
def test_a_uri_that_names_one_version_stays_as_it_is(uri: str) -> None:
    assert present_version(uri) == uri


def test_a_uri_of_a_stage_is_refused_with_the_right_ones() -> None:
    with pytest.raises(
        UserError, match=r"models:/adaptf-router/Staging should end with a version, as in models:/adaptf-router/3"
    ):
        present_version("models:/adaptf-router/Staging")


def test_a_request_holds_no_more_audio_than_the_router_takes(predict_with: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "MAX_REQUEST_SECONDS", 0.35)
    router = CountingRouter()
    assert predict_with(router)["filename"].tolist() == [f"audio/{number}.wav" for number in range(10)]
    assert router.requests == [3, 1, 3, 1, 2]


def test_a_file_that_the_router_refuses_is_named(predict_with: Predict) -> None:
    with pytest.raises(DataError, match=r"^audio/2\.wav: audio has samples up to 9; full scale is 1"):
        predict_with(CountingRouter(fault="row 2: audio has samples up to 9; full scale is 1"))


def test_a_file_that_disappeared_meanwhile_is_named(predict_with: Predict, evaluation_set: Path) -> None:
    (evaluation_set / "audio/5.wav").unlink()
    with pytest.raises(DataError, match=r"^audio/5\.wav: "):
        predict_with(CountingRouter())


def test_memory_does_not_grow_with_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "FILES_PER_PART", 32)
    monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda uri, **settings: CountingRouter())
    peaks = []
    for files in (64, 64, 512):  # the first pays for what is imported and remembered
        root, work = write_evaluation_set(tmp_path / f"files{files}-{len(peaks)}", files), tmp_path / f"work{len(peaks)}"
        work.mkdir()
        tracemalloc.start()
        predict(PredictConfig(files=str(root), model_uri="some/folder"), StageRun(run_id="", name="predict", folder=work))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 300 * (512 - 64)  # of which 200 bytes are a file's name and device in the table


@pytest.fixture(scope="module")
def promoted(environment: dict[str, str], folder: Path) -> None:
    """A router with one small random network is in production."""
    torch.manual_seed(0)
    network, log_mels = TfSepNet(classes=2, width=8, depth=2), torch.randn(8, 1, 64, 64)
    save_int8(quantize_int8(network, [log_mels]).program(), folder / "unknown.pt2")
    write_bundle(
        folder / "bundle",
        {"unknown": (folder / "unknown.pt2", "adaptf-unknown/1")},
        scenes=SCENES,
        mel={"bands": 64},
        sample_rate=32000,
        clip_samples=32000,
        max_seconds=60.0,
    )
    with mlflow.start_run():
        uri = registry.log_router(folder / "bundle", registry.ROUTER_NAME)
    version = registry.register(uri, registry.ROUTER_NAME, tags={}, description="one network")
    production.promote(registry.ROUTER_NAME, version)


@pytest.mark.slow
@pytest.mark.usefixtures("promoted")
def test_a_killed_prediction_goes_on_and_gives_the_same_bytes(
    environment: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    root = write_evaluation_set(tmp_path / "evaluation", 6 * stage.FILES_PER_PART)
    command = [sys.executable, "-m", "adaptf.mlproject.predict", f"--files={root}"]
    answered = parts_until_killed(command, environment, folder)
    assert 2 <= answered < 6

    def tables() -> tuple[str, list[bytes]]:
        """What the command says, and the tables that it leaves in its run."""
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=200)
        assert done.returncode == 0, done.stderr
        run_id = done.stdout.split("predict finished: run ")[1].strip()
        names = (PREDICTIONS, OUTPUT)
        return done.stdout, [Path(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{name}")).read_bytes() for name in names]

    said, resumed = tables()
    assert f"predict: {answered} of 6 parts are answered, goes on with " in said
    said, uninterrupted = tables()
    assert "parts are answered" not in said
    assert resumed == uninterrupted
    assert resumed[0].count(b"\n") == 1 + 6 * stage.FILES_PER_PART


def parts_until_killed(command: list[str], environment: dict[str, str], folder: Path) -> int:
    """Kills the process once two parts are there; returns how many it has left."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=folder)

    def parts() -> int:
        return len(list((folder / "work").glob("predict-*/parts/*/[0-9]*.csv")))

    while parts() < 2 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, said.decode()
    return parts()
