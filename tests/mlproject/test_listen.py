"""The command `listen`: a line per second, the picture at the end, and what a user can mend."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
from fixtures.store import in_store
from matplotlib.image import imread

from adaptf.errors import UserError
from adaptf.evaluation.forward_filter import StreamCalibration
from adaptf.mlproject import listen as module
from adaptf.mlproject.listen import ListenConfig, answers, line, listen, microphone, ready_router
from adaptf.serving.router import DeviceRouter
from adaptf.serving.router_model import log_router
from adaptf.tracking import production, registry
from adaptf.tracking.present import IN_PRODUCTION

RATE = 44_100
SURE = StreamCalibration(factor=1.0, dependence=0.5, threshold=0.0)


@pytest.fixture
def folder(tmp_path: Path, noise: Callable[..., np.ndarray]) -> Path:
    """With a recording of 4.6 seconds."""
    soundfile.write(tmp_path / "walk.flac", noise(round(4.6 * RATE)), RATE)
    return tmp_path


@pytest.fixture
def config(folder: Path) -> ListenConfig:
    return ListenConfig(
        file=str(folder / "walk.flac"), model_uri="models:/adaptf-router/3", picture=str(folder / "walk.png")
    )


@pytest.fixture(scope="module")
def loaded(make_bundle: Callable[..., Path]) -> DeviceRouter:
    bundle = make_bundle("unknown", stream=SURE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "bundle_behind", lambda uri, folder, what: bundle)
        return ready_router("models:/adaptf-unknown/3")


@pytest.fixture
def router(loaded: DeviceRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ready_router", lambda uri: loaded)


def test_a_file_is_told_second_by_second_and_drawn(router, config, scenes, capsys) -> None:
    told = listen(config)
    lines = [row.split() for row in capsys.readouterr().out.splitlines() if " s  " in row]
    assert [row[0] for row in lines] == ["0", "1", "2", "3", "4"]
    assert all(row[2] in scenes and row[3].endswith("%") and set(row[4]) == {"█"} for row in lines)
    assert told == f"5 s were heard; {config.picture} shows the probabilities."
    assert imread(config.picture).ndim == 3


@pytest.mark.usefixtures("router")
def test_ctrl_c_ends_it_with_the_picture(config, monkeypatch) -> None:
    whole = module.seconds_of

    def interrupted(path: Path) -> Iterator[bytes]:
        sounds = whole(path)
        yield next(sounds)
        yield next(sounds)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "seconds_of", interrupted)
    assert listen(config).startswith("2 s were heard;")
    assert Path(config.picture).is_file()


@pytest.mark.usefixtures("router")
def test_a_microphone_is_heard_until_it_is_interrupted(folder, noise, monkeypatch, capsys) -> None:
    class Stream:
        def __init__(self, samplerate: int, **given: Any) -> None:
            assert (samplerate, given) == (48_000, {"channels": 1, "dtype": "float32"})
            self.seconds = 3

        def __enter__(self) -> "Stream":
            return self

        def __exit__(self, *error: object) -> None:
            print("closed")

        def read(self, samples: int) -> tuple[np.ndarray, bool]:
            self.seconds -= 1
            if self.seconds < 0:
                raise KeyboardInterrupt
            return noise(samples)[:, None], False

    found = {"default_samplerate": 48_000.0}
    fake = SimpleNamespace(query_devices=lambda kind: found, InputStream=Stream)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    picture = str(folder / "mic.png")
    assert listen(ListenConfig(model_uri="models:/adaptf-router/3", picture=picture)).startswith("3 s were")
    assert "closed" in capsys.readouterr().out


def test_without_its_package_the_microphone_is_told_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match="install the package sounddevice"):
        microphone()


def test_without_a_microphone_it_says_so(monkeypatch) -> None:
    def nothing(kind: str) -> None:
        raise ValueError("No input device matching")

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(query_devices=nothing))
    with pytest.raises(UserError, match="there is no microphone to listen to"):
        microphone()


@pytest.mark.usefixtures("router")
def test_what_is_no_sound_and_a_wrong_picture_are_told(folder, config) -> None:
    (folder / "notes.txt").write_text("no sound")
    with pytest.raises(UserError, match=r"notes\.txt"):
        listen(replace(config, file=str(folder / "notes.txt")))
    with pytest.raises(UserError, match=r"should end with \.png"):
        listen(replace(config, picture="walk.jpeg2"))


def test_a_line_tells_the_second_the_scene_and_how_sure_it_is() -> None:
    row = pd.Series({"second": 12, "scene": "unsure", "probability": 0.42})
    assert line(row) == "    12 s  unsure              42% ████████"


@pytest.fixture(scope="module")
def in_production(
    make_bundle: Callable[..., Path], empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The first version of a router, and the second of a device's model that it brings in its first."""
    folder = tmp_path_factory.mktemp("production")
    of_the_router = make_bundle("b", "unknown", stream=SURE)
    of_the_device = make_bundle("unknown", network_of="a", stream=SURE)
    versions = (("adaptf-router", of_the_router), ("adaptf-b", of_the_router), ("adaptf-b", of_the_device))
    with in_store(f"sqlite:///{shutil.copy(empty_database, folder / 'mlflow.db')}", folder / "artifacts"):
        for name, bundle in versions:
            with mlflow.start_run():
                version = registry.register(log_router(bundle, name), name, tags={}, description="")
            production.promote(name, str(version))
        yield


@pytest.mark.usefixtures("in_production")
def test_a_promoted_device_is_heard_as_a_stream_by_its_own_version(config, scenes) -> None:
    router = ready_router(IN_PRODUCTION)
    heard = list(answers(router, module.seconds_of(Path(config.file)), replace(config, device="b")))
    assert [row["version_used"] for row in heard] == ["adaptf-b/2"] * 5
    assert [row["seconds_heard"] for row in heard] == [1, 2, 3, 4, 5]
    assert all(row["scene"] in scenes for row in heard)
