"""Stage `predict` on an evaluation set:
its answers, their order, both tables, resuming, one version, and files at fault."""

import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from adaptf.compression.int8 import save_int8
from adaptf.compression.quantize import quantize_int8
from adaptf.data.decode import decode
from adaptf.data.errors import DataError
from adaptf.data.sets import files_to_predict
from adaptf.errors import UserError
from adaptf.mlproject import predict as stage
from adaptf.mlproject.predict import (
    OUTPUT,
    PREDICT,
    PREDICTIONS,
    PredictConfig,
    files_digest,
    predict,
)
from adaptf.models.students.tfsepnet.network import TfSepNet
from adaptf.pipeline.stage import execute
from adaptf.serving import router_model
from adaptf.serving.bundle import write_bundle
from adaptf.serving.file_answers import Answers, Clip
from adaptf.serving.requests import cut_clips
from adaptf.tracking import production, registry
from adaptf.tracking.outcome import Result
from adaptf.tracking.present import present_version
from adaptf.tracking.stage_run import StageRun

SCENES = ("airport", "bus")
Predict = Callable[["Counting"], pd.DataFrame]


class Counting:
    """Answers as a model does; the scene tells the device, so that a wrong order would show."""

    scenes = SCENES

    def __init__(self, ends_at: int = 10**9, version: str = "adaptf-a/1", clips_at_once: int = 16) -> None:
        self.ends_at, self.version, self.clips_at_once = ends_at, version, clips_at_once
        self.requests: list[int] = []
        self.loaded: list[tuple[str, Mapping[str, str]]] = []

    @property
    def asked(self) -> int:
        return sum(self.requests)

    def answer(self, clips: Sequence[Clip]) -> Answers:
        if self.asked + len(clips) > self.ends_at:
            raise KeyboardInterrupt
        self.requests.append(len(clips))
        bus = np.array([clip.device == "unknown" for clip in clips])
        used = [(clip.device, self.version) for clip in clips]
        return Answers(used, np.stack([0.75 - 0.5 * bus, 0.25 + 0.5 * bus], axis=1))


class FakeRegistry:
    """What is in production, and where versions came from. Version 1 of the router alone is."""

    def __init__(self) -> None:
        self.production = {"adaptf-router": "1"}
        self.sources: dict[str, str] = {}
        self.tracking_uri = self.registry_uri = "http://here"
        self.looked: list[str] = []

    def resolve(self, name: str) -> str:
        self.looked.append(name)
        return self.production[name]

    def source_of(self, uri: str) -> str:
        return self.sources.get(uri, f"the source of {uri}")


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    fake = FakeRegistry()
    monkeypatch.setattr(production, "resolve_production", fake.resolve)
    monkeypatch.setattr(production, "in_production", lambda: dict(fake.production))
    monkeypatch.setattr(stage, "source_of", fake.source_of)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: fake.tracking_uri)
    monkeypatch.setattr(mlflow, "get_registry_uri", lambda: fake.registry_uri)
    return fake


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


@contextmanager
def in_this_process(
    asked: Counting, uri: str, versions: Mapping[str, str], folder: Path, *, parts: int
) -> Iterator[tuple[Executor, Callable[[], Counting]]]:
    """In place of `answering`."""
    asked.loaded.append((uri, versions))
    with ThreadPoolExecutor(1) as pool:
        yield pool, lambda: asked


@pytest.fixture
def run_with(
    evaluation_set: Path, work: Path, models: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Runs the stage: four files a part, one part at a time."""
    monkeypatch.setattr(stage, "FILES_PER_PART", 4)
    run = StageRun(run_id="", name="predict", folder=work)

    def call(asked: Counting, **settings: Any) -> Result:
        monkeypatch.setattr(stage, "answering", partial(in_this_process, asked))
        return predict(PredictConfig(**({"files": str(evaluation_set)} | settings)), run)

    return call


@pytest.fixture
def predict_with(run_with: Callable[..., Result], work: Path) -> Predict:
    """Runs the stage and reads its table."""

    def call(router: Counting) -> pd.DataFrame:
        run_with(router)
        return pd.read_csv(work / PREDICTIONS)

    return call


def test_an_evaluation_set_without_labels_gets_a_scene_per_file_in_its_order(predict_with: Predict) -> None:
    predictions = predict_with(Counting())
    assert predictions["filename"].tolist() == [f"audio/{number}.wav" for number in range(10)]
    assert predictions["device_asked"].tolist() == [
        "unknown" if number % 3 == 0 else "s1" for number in range(10)
    ]
    assert predictions["scene"].tolist() == ["bus" if number % 3 == 0 else "airport" for number in range(10)]
    assert predictions["bus"].tolist() == [0.75 if number % 3 == 0 else 0.25 for number in range(10)]


def test_the_challenge_gets_its_table(predict_with: Predict, work: Path) -> None:
    predict_with(Counting())
    first, second, *others = (work / OUTPUT).read_text().splitlines()
    assert first == "filename\tscene_label\tairport\tbus"
    assert second == "audio/0.wav\tbus\t0.25\t0.75"
    assert len(others) == 9


def test_files_are_counted_by_the_version_that_was_used(run_with: Callable[..., Result]) -> None:
    result = run_with(Counting())
    assert "| s1 | adaptf-a/1 | 6 |\n| unknown | adaptf-a/1 | 4 |" in result.summary
    assert result.tags == {"adaptf.model": "adaptf-router/1"}


def test_an_interrupted_prediction_asks_only_for_what_is_missing(
    predict_with: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = Counting(ends_at=8), Counting()
    with pytest.raises(KeyboardInterrupt):
        predict_with(first)
    predictions = predict_with(second)
    assert (first.asked, second.asked) == (8, 2)
    assert predictions["filename"].tolist() == [f"audio/{number}.wav" for number in range(10)]
    assert "predict: 2 of 3 parts are answered, goes on with audio/8.wav" in capsys.readouterr().out


# What may be other models: the router or a device promoted, or another store with the same names and numbers.
CHANGES: dict[str, Callable[[FakeRegistry], object]] = {
    "router promoted": lambda models: models.production.update({"adaptf-router": "2"}),
    "device promoted": lambda models: models.production.update({"adaptf-s1": "2"}),
    "device withdrawn": lambda models: models.production.pop("adaptf-s1"),
    "router of another source": lambda models: models.sources.update(
        {"models:/adaptf-router/1": "elsewhere"}
    ),
    "device of another source": lambda models: models.sources.update({"models:/adaptf-s1/1": "elsewhere"}),
    "another store": lambda models: setattr(models, "tracking_uri", "http://elsewhere"),
    "another registry": lambda models: setattr(models, "registry_uri", "http://elsewhere"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_answers_of_other_models_are_not_kept(
    change: Callable[[FakeRegistry], object],
    evaluation_set: Path,
    predict_with: Predict,
    models: FakeRegistry,
) -> None:
    models.production["adaptf-s1"] = "1"
    config = PredictConfig(files=str(evaluation_set))
    before = files_digest(config)
    with pytest.raises(KeyboardInterrupt):
        predict_with(Counting(ends_at=8))
    assert files_digest(config) == before
    change(models)
    assert files_digest(config) != before
    others = Counting(version="adaptf-a/2")
    assert set(predict_with(others)["version_used"]) == {"adaptf-a/2"}
    assert others.asked == 10


def test_what_is_in_production_answers_and_no_later_promotion_is_followed(
    run_with: Callable[..., Result], models: FakeRegistry
) -> None:
    models.production |= {"adaptf-s1": "2", "adaptf-unknown": "1"}
    asked = Counting()
    run_with(asked)
    assert models.looked == ["adaptf-router"]
    assert asked.loaded == [("models:/adaptf-router/1", {"s1": "adaptf-s1/2", "unknown": "adaptf-unknown/1"})]


@pytest.mark.parametrize(
    ("uri", "version"),
    [("models:/adaptf-router/3", "adaptf-router/3"), ("models:/adaptf-s1@production", "adaptf-s1/2")],
)
def test_a_version_and_the_model_of_one_device_answer_as_they_were_registered(
    uri: str, version: str, run_with: Callable[..., Result], models: FakeRegistry
) -> None:
    models.production |= {"adaptf-s1": "2", "adaptf-unknown": "2"}
    asked = Counting()
    assert run_with(asked, model_uri=uri).tags == {"adaptf.model": version}
    assert asked.loaded == [(f"models:/{version}", {})]


@pytest.mark.parametrize(
    "uri", ["models:/adaptf-router/3", "models:/m-0123456789abcdef", "runs:/1a2b/model", "some/folder"]
)
def test_a_uri_that_names_one_version_stays_as_it_is(uri: str) -> None:
    assert present_version(uri) == uri


def test_a_uri_of_a_stage_is_refused_with_the_right_ones() -> None:
    with pytest.raises(
        UserError,
        match=r"models:/adaptf-router/Staging should end with a version, as in models:/adaptf-router/3",
    ):
        present_version("models:/adaptf-router/Staging")


def test_large_files_are_parts_of_their_own_so_that_each_core_has_some(
    evaluation_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for large in (3, 4):
        with (evaluation_set / f"audio/{large}.wav").open("ab") as file:
            file.truncate(100_000)
    monkeypatch.setattr(stage, "FILES_PER_PART", 4)
    monkeypatch.setattr(stage, "BYTES_PER_PART", 50_000)
    table, root = files_to_predict.read_files_to_predict(evaluation_set)
    parts = [rows["filename"].tolist() for rows in stage.cut_into_parts(table, root)]
    assert [len(part) for part in parts] == [3, 1, 1, 4, 1]
    assert [name for part in parts for name in part] == table["filename"].tolist()


def test_some_clips_of_a_part_are_asked_at_a_time(predict_with: Predict) -> None:
    asked = Counting(clips_at_once=3)
    assert predict_with(asked)["filename"].tolist() == [f"audio/{number}.wav" for number in range(10)]
    assert asked.requests == [3, 1, 3, 1, 2]


class Hearing(Counting):
    """What it answers is the clip's peak."""

    def answer(self, clips: Sequence[Clip]) -> Answers:
        used, _ = super().answer(clips)
        peaks = np.array([np.abs(clip.waveform).max() for clip in clips], dtype=float)
        return Answers(used, np.stack([1 - peaks, peaks], axis=1))


@pytest.fixture
def files_of_all_kinds(tmp_path: Path) -> Path:
    """A table of them; two MP3s are joined."""
    kinds: dict[str, tuple[float, int, int, dict[str, str]]] = {
        "a.mp3": (6.0, 44100, 1, {}),
        "b.wav": (1.0, 32000, 1, {"format": "RF64"}),
        "c.w64": (1.0, 32000, 1, {}),
        "d.wav": (75.3, 32000, 1, {}),
        "e.wav": (1.0, 32000, 10, {}),
        "f.wav": (2.6, 384_000, 1, {}),
        "g.ogg": (1.0, 48000, 2, {"subtype": "OPUS"}),
        "h.aiff": (0.5, 8000, 1, {}),
        "i.wav": (0.01, 32000, 1, {}),
        "j.wav": (1.0, 44100, 1, {"subtype": "ALAW"}),
        "k.flac": (3.5, 22050, 2, {"subtype": "PCM_24"}),
    }
    folder = tmp_path / "of all kinds"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, (seconds, rate, channels, settings) in kinds.items():
        samples = 0.2 * generator.standard_normal((round(seconds * rate), channels))
        soundfile.write(folder / name, np.clip(samples, -1, 1), rate, **settings)
    (folder / "l.mp3").write_bytes((folder / "a.mp3").read_bytes() * 2)
    (folder / "files.csv").write_text(
        "filename,device\n" + "".join(f"{name},s1\n" for name in [*kinds, "l.mp3"])
    )
    return folder / "files.csv"


def test_files_of_any_kind_length_rate_and_number_of_channels_are_answered(
    files_of_all_kinds: Path, run_with: Callable[..., Result], work: Path
) -> None:
    files_digest(PredictConfig(files=str(files_of_all_kinds), model_uri="some/folder"))
    asked = Hearing()
    run_with(asked, files=str(files_of_all_kinds), model_uri="some/folder")
    predictions = pd.read_csv(work / PREDICTIONS).set_index("filename")
    assert list(predictions.index) == pd.read_csv(files_of_all_kinds)["filename"].tolist()
    clips = {
        name: cut_clips(decode(files_of_all_kinds.parent / name, sample_rate=32000), 32000)
        for name in predictions.index
    }
    assert [len(clips[name]) for name in ("a.mp3", "d.wav", "f.wav", "i.wav", "k.flac", "l.mp3")] == [
        6,
        75,
        3,
        1,
        4,
        12,
    ]
    for name, of_file in clips.items():
        peak = np.abs(of_file).max(axis=1).mean()
        answer = predictions.loc[name]
        assert answer["bus"] == pytest.approx(peak, abs=1e-6)
        assert answer["airport"] == pytest.approx(1 - peak, abs=1e-6)
        assert answer["scene"] == SCENES[int(peak > 0.5)]
        assert answer["probability"] == pytest.approx(max(peak, 1 - peak), abs=1e-6)
    assert asked.asked == sum(map(len, clips.values()))


def test_a_file_that_disappeared_meanwhile_is_named(predict_with: Predict, evaluation_set: Path) -> None:
    (evaluation_set / "audio/5.wav").unlink()
    with pytest.raises(DataError, match=r"^audio/5\.wav: "):
        predict_with(Counting())


def peak_bytes(call: Callable[[], object]) -> int:
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.slow
def test_memory_does_not_grow_with_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "FILES_PER_PART", 32)
    monkeypatch.setattr(stage, "answering", partial(in_this_process, Counting()))

    def peak(files: int) -> int:
        """The lower of two: once in a while a table of the interpreter's own doubles."""
        root, peaks = write_evaluation_set(tmp_path / f"{files} files", files), []
        for attempt in range(2):
            run = StageRun(run_id="", name="predict", folder=tmp_path / f"{files} files, {attempt}")
            run.folder.mkdir()
            peaks.append(
                peak_bytes(partial(predict, PredictConfig(files=str(root), model_uri="some/folder"), run))
            )
        return min(peaks)

    assert peak(512) - peak(64) < 300 * (
        512 - 64
    )  # of which 200 bytes are a file's name and device in the table


@pytest.mark.slow
def test_memory_of_the_digest_does_not_grow_with_the_files(
    evaluation_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_to_predict, "ROWS_AT_ONCE", 32)
    table = evaluation_set / "files.csv"

    def peak(files: int) -> int:
        table.write_text("filename,device\n" + "".join(f"audio/{row % 10}.wav,s1\n" for row in range(files)))
        config = PredictConfig(files=str(table), model_uri="some/folder")
        return min(peak_bytes(partial(files_digest, config)) for _ in range(2))

    assert peak(1500) - peak(500) < 300 * (1500 - 500)


@pytest.fixture(scope="module")
def promoted(environment: dict[str, str], folder: Path) -> None:
    """A router with one small random network is in production;
    of that network a later version than the one inside it."""
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
        uri = router_model.log_router(folder / "bundle", registry.ROUTER_NAME)
    for name in (registry.ROUTER_NAME, "adaptf-unknown", "adaptf-unknown"):
        production.promote(name, registry.register(uri, name, tags={}, description="one network"))


@pytest.mark.slow
@pytest.mark.usefixtures("promoted")
def test_a_promoted_device_model_answers_in_place_of_that_inside_the_router(tmp_path: Path) -> None:
    root = write_evaluation_set(tmp_path / "evaluation", 4)

    def versions_used(**settings: Any) -> set[str]:
        run_id = execute(PREDICT, PredictConfig(files=str(root), **settings))
        return set(
            pd.read_csv(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{PREDICTIONS}"))["version_used"]
        )

    assert versions_used() == {"adaptf-unknown/2"}
    assert versions_used(model_uri="models:/adaptf-router/1") == {"adaptf-unknown/1"}
    assert versions_used(model_uri="models:/adaptf-unknown@production") == {"adaptf-unknown/1"}, (
        "its own, not followed"
    )
    with pytest.raises(UserError, match="there is no model models:/adaptf-router/9 in sqlite:"):
        versions_used(model_uri="models:/adaptf-router/9")


@pytest.mark.slow
@pytest.mark.usefixtures("promoted")
def test_a_killed_prediction_goes_on_and_gives_the_same_bytes(
    environment: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    root = write_evaluation_set(tmp_path / "evaluation", 4 * stage.FILES_PER_PART)
    command = [sys.executable, "-m", "adaptf.mlproject.predict", f"--files={root}"]
    environment = environment | {"OMP_NUM_THREADS": "2"}  # as many processes
    answered = parts_until_killed(command, environment, folder)
    assert 1 <= answered < 4

    def tables() -> tuple[str, list[bytes]]:
        """What the command says, and the tables that it leaves in its run."""
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=folder, timeout=200
        )
        assert done.returncode == 0, done.stderr
        run_id = done.stdout.split("predict finished: run ")[1].strip()
        names = (PREDICTIONS, OUTPUT)
        return done.stdout, [
            Path(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{name}")).read_bytes() for name in names
        ]

    said, resumed = tables()
    assert f"predict evaluation: {answered} of 4 parts are answered, goes on with " in said
    said, uninterrupted = tables()
    assert "parts are answered" not in said
    assert resumed == uninterrupted
    assert resumed[0].count(b"\n") == 1 + 4 * stage.FILES_PER_PART


def parts_until_killed(command: list[str], environment: dict[str, str], folder: Path) -> int:
    """Kills the process once a part is there; returns how many it has left."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=folder
    )

    def parts() -> int:
        return len(list((folder / "work").glob("predict-*/parts/*/[0-9]*.csv")))

    while not parts() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, said.decode()
    return parts()
