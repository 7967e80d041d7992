"""Learning which device it is: who is told,
and how seldom a device that was not learnt is taken for another."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from adaptf.audio.logmel import LogMel
from adaptf.models.device_from_sound import DeviceFromSound
from adaptf.pipeline import learn_device as learn_device_module
from adaptf.pipeline.learn_device import learn_device

BANDS, DEVICES = 64, ["a", "b", "c", "s1"]
CPU = torch.device("cpu")
LOG_MEL = LogMel(bands=BANDS)


def table_of(clips: dict[str, int]) -> pd.DataFrame:
    """So many clips of each device, for training and for validation each."""
    rows = [
        {"device": device, "split": split}
        for device, count in clips.items()
        for split in ("train", "validation", "test")
        for _ in range(count)
    ]
    return pd.DataFrame(rows)


def sounds_of(devices: Any, *, seed: int = 0) -> torch.Tensor:
    """Log-mels of scenes of smooth colours by devices of rough ones."""
    generator = np.random.default_rng(seed)
    rough = {name: np.random.default_rng(sum(map(ord, name))).normal(0, 0.4, BANDS) for name in set(devices)}
    slopes = generator.normal(0, 1, (len(devices), 1)) * np.linspace(0, 1, BANDS)
    clips = np.stack([rough[device] for device in devices]) + slopes
    frames = clips[:, None, :, None] + generator.normal(0, 0.5, (len(devices), 1, BANDS, 12))
    return torch.from_numpy(frames.astype(np.float32))


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Data of which log-mels alone are known."""

    def with_log_mels(clips: pd.DataFrame, *others: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(features=sounds_of(list(clips["device"]), seed=len(clips)))]

    monkeypatch.setattr(learn_device_module, "with_log_mels", with_log_mels)
    clips = dict.fromkeys(DEVICES, 60) | {"a": 400}
    return SimpleNamespace(table=table_of(clips), clip_set=lambda rows, split: rows)


def told(model: DeviceFromSound, device: str) -> np.ndarray:
    """What is said of each of a device's new clips."""
    clips = sounds_of([device] * 100, seed=99)
    return np.array([model.tell(clip[None]) or "" for clip in clips])


def test_devices_are_told_and_one_that_was_not_learnt_seldom_is(data: SimpleNamespace) -> None:
    learnt = learn_device(data, DEVICES, LOG_MEL, CPU)
    assert learnt is not None
    model, table = learnt
    assert model.devices == DEVICES
    for device in DEVICES:
        said = told(model, device)
        assert (said == device).mean() > 0.5
        assert np.isin(said, [device, ""]).all()
    assert np.mean([(told(model, device) != "").mean() for device in ("s4", "s5", "s6")]) < 0.1
    assert table.startswith("| device | told | taken for another | not told | taken for another where not")
    shares = [float(line.split("|")[-2]) for line in table.splitlines()[2:]]
    assert len(shares) == len(DEVICES)
    assert max(shares) <= 100 * learn_device_module.TAKEN_AT_MOST


def test_the_stored_layer_says_what_was_fitted(
    data: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[Any] = []
    fit = learn_device_module._fit
    monkeypatch.setattr(learn_device_module, "_fit", lambda heard: fitted.append(fit(heard)) or fitted[-1])
    learnt = learn_device(data, DEVICES, LOG_MEL, CPU)
    assert learnt is not None
    clips = sounds_of(DEVICES)
    statistics = learn_device_module.band_statistics(clips).numpy()
    np.testing.assert_allclose(
        learnt[0].probabilities(clips).numpy(), fitted[-1].predict_proba(statistics), atol=1e-4
    )


@pytest.mark.parametrize("devices", [[], ["a"], ["a", "b"], ["a", "b", "nobody"]])
def test_nothing_is_learnt_of_fewer_than_three_devices_with_clips(
    data: SimpleNamespace, devices: list[str]
) -> None:
    assert learn_device(data, devices, LOG_MEL, CPU) is None


def test_nothing_is_learnt_where_a_device_has_no_validation_clips(data: SimpleNamespace) -> None:
    table = data.table[(data.table["split"] == "train") | (data.table["device"] != "c")]
    assert learn_device(SimpleNamespace(table=table, clip_set=data.clip_set), DEVICES, LOG_MEL, CPU) is None
