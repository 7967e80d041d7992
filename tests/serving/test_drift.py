"""A served stream whose microphone changes: what the log and the metrics say of it, and when."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.serving import BANDS, RATE, SCENES
from fixtures.shadow import Saying, bundle_of, saying
from prometheus_client import generate_latest
from scipy.signal import lfilter

from adaptf.audio.logmel import LogMel
from adaptf.evaluation.drift import profile_of
from adaptf.evaluation.profile import KINDS, sound_values, values_by_kind
from adaptf.mlproject.serve import ServeConfig, load_router
from adaptf.serving.bundle import RoutedModel
from adaptf.serving.drift import Drift
from adaptf.serving.drift_metrics import DriftMetrics
from adaptf.serving.live import Follower
from adaptf.serving.router import DeviceRouter
from adaptf.serving.settings import Settings

pytestmark = pytest.mark.slow

WINDOW, SECONDS, STEPS = 60, 3, 15
"""Clips of a window, and of a place."""
Change = Callable[[np.ndarray], np.ndarray]


def at_place(seed: int) -> np.ndarray:
    """Seconds of noise that has the colour and the level of a place."""
    generator = np.random.default_rng(seed)
    bins = RATE * SECONDS // 2 + 1
    colour_db = np.interp(np.linspace(0, 1, bins), np.linspace(0, 1, 4), generator.normal(0, 6, 4))
    spectrum = np.fft.rfft(generator.standard_normal(RATE * SECONDS)) * 10 ** (colour_db / 20)
    return (0.02 * np.fft.irfft(spectrum)).astype(np.float32)


def other_microphone(sound: np.ndarray) -> np.ndarray:
    """One with an echo of a quarter of a millisecond."""
    return lfilter([1.0] + [0.0] * 7 + [0.7], [1.0], sound).astype(np.float32)


def says_something(log_mel: torch.Tensor) -> torch.Tensor:
    """Logits that hang on the colour, as those of a network do."""
    return log_mel[:, 0].mean(dim=2)[:, : len(SCENES)] * 5


@pytest.fixture(scope="module")
def profile() -> dict[str, Any]:
    """Of 30 places."""
    clips = torch.from_numpy(np.concatenate([at_place(seed) for seed in range(30)]).reshape(-1, RATE))
    log_mel = LogMel(bands=BANDS)(clips)
    values = values_by_kind(sound_values(log_mel, steps=STEPS), says_something(log_mel))
    places = [str(clip // SECONDS) for clip in range(len(clips))]
    found = profile_of(
        values, places, scenes=len(SCENES), window_clips=WINDOW, bins=10, false_alarms=0.001, draws=2000
    )
    return json.loads(json.dumps(found.as_dict()))


@pytest.fixture
def router(profile) -> DeviceRouter:
    """Of device a, which is watched, and of `unknown`, which an earlier version of adaptf registered."""
    watched = RoutedModel(Saying(says_something), "adaptf-a/2", profile=profile)
    follower = Follower(bundle_of(a=watched, unknown=saying("adaptf-unknown/1", "park")), check_seconds=10)
    router = DeviceRouter()
    router.start(follower, Settings())
    drift = Drift(follower)
    router.tell(drift.heard, DriftMetrics(drift))
    return router


@pytest.fixture
def stream(encoded) -> Callable[..., None]:
    """Has a router answer windows of clips of places that the profile knows nothing of."""

    def ask(router: DeviceRouter, windows: int, change: Change = np.asarray, *, device: str = "a") -> None:
        for window in range(windows):
            seeds = range(1000 + 100 * window, 1000 + 100 * window + WINDOW // SECONDS)
            audio = [encoded(change(at_place(seed)), subtype="FLOAT") for seed in seeds]
            router.predict(None, pd.DataFrame({"audio": audio, "device": device}))

    return ask


@pytest.fixture
def said(caplog) -> Callable[[], list[dict[str, Any]]]:
    """Lines of the log on drift."""
    caplog.set_level(logging.INFO, "adaptf.router")

    def lines() -> list[dict[str, Any]]:
        found = [json.loads(record.getMessage()) for record in caplog.records]
        return [line for line in found if line["event"] == "drift"]

    return lines


def metric(router: DeviceRouter, name: str, device: str = "a", **labels: str) -> float | None:
    version = router.bundle.models[device].version
    return router.monitor.metrics.get_sample_value(name, {"device": device, "version": version} | labels)


def is_outside(router: DeviceRouter, kind: str) -> bool:
    found, limit = (metric(router, f"adaptf_drift_{name}", kind=kind) for name in ("distance", "limit"))
    assert found is not None and limit is not None
    return found > limit


def test_another_microphone_is_one_line_and_its_return_another(router, stream, said):
    stream(router, 2)
    assert said() == [] and not any(is_outside(router, kind) for kind in KINDS)
    assert metric(router, "adaptf_drift_windows_total") == 2
    stream(router, 2, other_microphone)
    (line,) = [line for line in said() if "spectrum" in line["left"]]
    assert is_outside(router, "spectrum") and line["back"] == []
    assert line == line | {"device": "a", "version": "adaptf-a/2", "level": "WARNING", "clips": WINDOW}
    assert line["distances"]["spectrum"] > line["limits"]["spectrum"]
    stream(router, 1)
    assert said()[-1] == said()[-1] | {"level": "INFO", "left": [], "message": "as it was"}
    assert "spectrum" in said()[-1]["back"] and not any(is_outside(router, kind) for kind in KINDS)


def test_a_quieter_microphone_leaves_the_range_of_the_level_and_not_of_the_spectrum(router, stream):
    stream(router, 1, lambda sound: sound / 5)
    assert is_outside(router, "level") and not is_outside(router, "spectrum")


def test_no_window_is_compared_before_it_is_full(router, stream, encoded):
    clips = pd.DataFrame({"audio": [encoded(at_place(1))], "device": "a"})
    router.predict(None, clips)
    assert metric(router, "adaptf_drift_windows_total") == 0
    assert metric(router, "adaptf_drift_distance", kind="level") is None
    assert metric(router, "adaptf_drift_limit", kind="level") > 0


def test_a_version_without_a_profile_serves_and_says_once_that_it_is_not_watched(router, stream, said):
    stream(router, 2, device="unknown")
    (line,) = said()
    assert (
        line["version"] == "adaptf-unknown/1" and "not watched: the version has no profile" in line["message"]
    )
    assert metric(router, "adaptf_drift_watched", "unknown") == 0
    assert metric(router, "adaptf_rows_total", "unknown") is None  # a label is missing
    rows = router.monitor.metrics.get_sample_value
    assert rows("adaptf_rows_total", {"device": "unknown", "scene": "park"}) == 2 * WINDOW // SECONDS


def test_a_profile_that_cannot_be_read_keeps_no_version_from_answering(router, stream, said, profile):
    broken = replace(router.bundle.models["a"], profile={"kinds": profile["kinds"]})
    router.follower.bundle = replace(router.bundle, models={**router.bundle.models, "a": broken})
    stream(router, 1)
    (line,) = said()
    assert "not watched: its profile cannot be read: KeyError: 'clips'" in line["message"]


def test_another_version_is_watched_anew_and_clips_of_the_former_do_not_count(router, stream):
    stream(router, 1)
    former = router.bundle.models["a"]
    newer = replace(former, version="adaptf-a/3")
    router.follower.bundle = replace(router.bundle, models={**router.bundle.models, "a": newer})
    (drift,) = router.listeners
    drift("a", former, torch.zeros(WINDOW, 1, BANDS, 64), torch.zeros(WINDOW, len(SCENES)))
    assert metric(router, "adaptf_drift_windows_total") is None
    stream(router, 1)
    assert metric(router, "adaptf_drift_windows_total") == 1
    assert "adaptf-a/2" not in [
        line for line in generate_latest(router.monitor.metrics).decode().split("\n") if "drift" in line
    ]


def test_watching_computes_no_log_mel_again(router, stream):
    heard = []
    router.bundle.log_mel.register_forward_hook(lambda module, clips, found: heard.append(len(found)))
    stream(router, 1)
    assert sum(heard) == WINDOW


def test_serve_watches_by_the_profile_in_the_bundle_unless_it_is_told_not_to(
    make_bundle, profile, monkeypatch
):
    folder = make_bundle("unknown", profiles={"unknown": profile})
    monkeypatch.setattr("adaptf.mlproject.serve.present_version", lambda uri: uri)
    monkeypatch.setattr("adaptf.mlproject.serve.bundle_behind", lambda *_, **__: folder)
    for drift in (True, False):
        router = load_router(ServeConfig(model_uri="models:/adaptf-unknown/1", live=False, drift=drift))
        router.try_out()
        assert router.bundle.models["unknown"].profile == profile
        assert ("adaptf_drift_watched" in generate_latest(router.monitor.metrics).decode()) == drift
