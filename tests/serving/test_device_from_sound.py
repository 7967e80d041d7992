"""Rows that name no device, answered by the model of the device that their sound tells of."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from adaptf.errors import UserError
from adaptf.mlproject import serve
from adaptf.models.device_from_sound import DEVICE_FROM_SOUND, DeviceFromSound
from adaptf.serving.bundle import BundleError
from adaptf.serving.local import local_router
from adaptf.serving.router import DeviceRouter

RATE, BANDS = 32000, 64
ROUNDED = 2e-3
"""As in test_router.py."""
DEVIATIONS = torch.cat([torch.zeros(BANDS - 1), torch.ones(BANDS)])
STEADY_OR_NOT = DeviceFromSound(
    ["a", "b"], 0.9, torch.stack([-DEVIATIONS, DEVIATIONS]), torch.tensor([20.0, -20.0])
)
"""Steady sounds are of a, others of b."""


def clip(kind: str, seconds: int = 1) -> np.ndarray:
    """Noise: steady, or with pauses; `between` has some of each, second by second."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(seconds * RATE).astype(np.float32)
    pulses = np.arange(len(noise)) // 4000 % 2 == 0
    seconds_with = np.arange(len(noise)) // RATE % 2 == 0 if kind == "between" else kind == "pulsed"
    return np.where(seconds_with & ~pulses, 0, noise).astype(np.float32)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finetune") / "left.json"
    STEADY_OR_NOT.write(path)
    return path


@pytest.fixture(scope="module")
def listening(make_bundle: Callable[..., Path], stored: Path) -> DeviceRouter:
    bundle = make_bundle("a", "b", "unknown", device_from_sound=stored)
    return local_router(bundle, device_from_sound=True)


@pytest.fixture(scope="module")
def rows(encoded: Callable[..., str]) -> Callable[..., pd.DataFrame]:
    return lambda sounds, devices: pd.DataFrame(
        {"audio": [encoded(sound, subtype="FLOAT") for sound in sounds], "device": devices}
    )


def probabilities(response: pd.DataFrame) -> np.ndarray:
    return pd.json_normalize(list(response.probabilities)).to_numpy()


def test_each_row_without_a_device_gets_the_network_of_the_one_it_sounds_like(listening, rows):
    sounds = [clip("steady"), clip("pulsed"), clip("pulsed", 3), clip("between", 4), clip("steady", 20)]
    heard = listening.predict(None, rows(sounds, [None, "", " ", None, None]))
    used = ["a", "b", "b", "unknown", "a"]
    assert list(heard.device_asked) == [None, "", " ", None, None]
    assert list(heard.device_used) == used
    named = listening.predict(None, rows(sounds, used))
    assert list(heard.version_used) == list(named.version_used)
    np.testing.assert_allclose(probabilities(heard), probabilities(named), atol=ROUNDED)


def test_a_row_that_names_a_device_is_not_listened_to(listening, rows):
    asked = ["b", "a", "s4", "unknown", None]
    heard = listening.predict(None, rows([clip("steady")] * 3 + [clip("pulsed")] * 2, asked))
    assert list(heard.device_used) == ["b", "a", "unknown", "unknown", "b"]


def test_seconds_of_a_row_are_answered_by_one_network(listening, rows):
    heard = listening.predict(None, rows([clip("pulsed", 3)], [None]), {"aggregate": "second"})
    assert list(heard.device_used) == ["b"] * 3


def test_by_default_rows_without_a_device_get_the_general_network(make_bundle, stored, rows):
    router = local_router(make_bundle("a", "b", "unknown", device_from_sound=stored))
    assert list(router.predict(None, rows([clip("steady")], [None])).device_used) == ["unknown"]


def test_a_told_device_without_a_network_gets_the_general_one(make_bundle, stored, rows):
    router = local_router(make_bundle("b", "unknown", device_from_sound=stored), device_from_sound=True)
    heard = router.predict(None, rows([clip("steady"), clip("pulsed")], [None, None]))
    assert list(heard.device_used) == ["unknown", "b"]


def test_serve_refuses_a_bundle_that_tells_no_devices(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serve, "present_version", lambda uri: uri)
    monkeypatch.setattr(serve, "bundle_behind", lambda *uri, **what: bundle)
    with pytest.raises(UserError, match=r"device_from_sound: this model holds nothing .* run finetune,"):
        serve.load_router(serve.ServeConfig(live=False, device_from_sound=True))


def test_one_for_other_log_mels_is_refused(make_bundle, tmp_path: Path):
    path = tmp_path / "other.json"
    short: Any = replace(STEADY_OR_NOT, weights=STEADY_OR_NOT.weights[:, :63])
    short.write(path)
    with pytest.raises(BundleError, match=f"{DEVICE_FROM_SOUND} is not for 2 devices and 64 bands"):
        local_router(make_bundle("a", "unknown", device_from_sound=path))
