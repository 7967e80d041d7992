"""Scenes of audio files, each by the network of its recording device: what the challenge's scripts call."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor, nn

from adaptf.audio.logmel import LogMel

_FOLDER = f"model_{Path(__file__).stem.rpartition('_')[2]}"
"""Beside this file: settings.json, weights.pt and the networks' source."""
_GENERAL = "unknown"
"""The device whose network answers for all that have none of their own."""
_FILES_AT_ONCE = 8
"""By one thread. More would not stay in a processor's caches, and fewer take longer each."""


class DeviceNetworks(nn.Module):
    """A network per recording device."""

    def __init__(self, networks: dict[str, nn.Module]) -> None:
        super().__init__()
        self.devices = list(networks)
        self.networks = nn.ModuleList(networks.values())

    def for_device(self, device_id: object) -> nn.Module:
        """Its own one, or the general one where the device is unknown or has none."""
        name = str(device_id).strip()
        return self.networks[self.devices.index(name if name in self.devices else _GENERAL)]


class Inference(nn.Module):
    """Networks, and what they hear: log-mels of clips of one second."""

    def __init__(self, networks: dict[str, nn.Module], log_mel: dict[str, Any], clip_samples: int) -> None:
        super().__init__()
        self.model = DeviceNetworks(networks)
        self.log_mel = LogMel(**log_mel)
        self.clip_samples = clip_samples


def load_model(model_file_path: str | None = None) -> Inference:
    """With the weights that came with the package, or with those of a file of the same kind."""
    folder, settings = Path(__file__).with_name(_FOLDER), _settings()
    networks = {
        device: import_module(f".{_FOLDER}.{module}", __package__).Network()
        for device, module in settings["networks"].items()
    }
    model = Inference(networks, settings["log_mel"], settings["clip_samples"])
    weights = torch.load(model_file_path or folder / "weights.pt", map_location="cpu", weights_only=True)
    model.model.load_state_dict(weights, strict=True)
    return model.eval()


@torch.no_grad()
def load_inputs(file_paths: Sequence[str], device_ids: Sequence[str], model: Inference) -> list[Tensor]:
    """A normalized log-mel (1, 1, bands, frames) per file; all devices are heard in the same way."""
    clips = [_read(path, model.log_mel.sample_rate, model.clip_samples) for path in file_paths]
    return list(model.log_mel(torch.from_numpy(np.stack(clips))).split(1)) if clips else []


def get_model_for_device(model: Inference, device_id: str) -> nn.Module:
    """The network that answers for a device: log-mel (batch, 1, bands, frames) -> logits (batch, classes)."""
    return model.model.for_device(device_id)


def predict(
    file_paths: Sequence[str],
    device_ids: Sequence[str],
    model_file_path: str | None = None,
    use_cuda: bool = True,
) -> tuple[list[Tensor], list[str]]:
    """Logits (classes) per file, in the order given, and the names of the classes.

    Some files are in memory at a time, on every processor core that torch may use.
    """
    if len(file_paths) != len(device_ids):
        raise ValueError(f"there are {len(file_paths)} files and {len(device_ids)} devices")
    model = load_model(model_file_path)
    place = torch.device("cuda" if use_cuda and torch.cuda.is_available() else "cpu")
    model.model.to(place)

    @torch.no_grad()
    def answer(rows: list[int]) -> Tensor:
        devices = [device_ids[row] for row in rows]
        log_mels = torch.cat(load_inputs([file_paths[row] for row in rows], devices, model))
        return get_model_for_device(model, devices[0])(log_mels.to(place)).cpu()

    parts = _parts(model, device_ids)
    logits: list[Tensor] = [torch.empty(0)] * len(file_paths)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each thread computes alone, on files of its own
    pool = ThreadPoolExecutor(threads)
    try:
        for rows, answers in zip(parts, pool.map(answer, parts), strict=True):
            for row, answered in zip(rows, answers, strict=True):
                logits[row] = answered
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
    return logits, list(_settings()["classes"])


def _parts(model: Inference, device_ids: Sequence[str]) -> list[list[int]]:
    """Places of the files, some at a time that have a network in common."""
    by_network: dict[nn.Module, list[int]] = {}
    for row, device in enumerate(device_ids):
        by_network.setdefault(get_model_for_device(model, device), []).append(row)
    return [
        rows[start : start + _FILES_AT_ONCE]
        for rows in by_network.values()
        for start in range(0, len(rows), _FILES_AT_ONCE)
    ]


def _settings() -> dict[str, Any]:
    file = Path(__file__).with_name(_FOLDER) / "settings.json"
    settings: dict[str, Any] = json.loads(file.read_text())
    return settings


def _read(path: str, sample_rate: int, samples: int) -> np.ndarray:
    """One second of audio (samples), channels averaged, silence behind a shorter one."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    clip = soxr.resample(audio.mean(axis=1, dtype=np.float32), rate, sample_rate, quality="HQ")
    if not 0 < len(clip) <= samples + 2 or not np.isfinite(clip).all():  # resampling rounds the length
        wanted = f"{samples / sample_rate:g} s of finite samples are expected"
        raise ValueError(f"{path}: {wanted}, got {len(audio) / rate:.3f} s")
    return np.pad(clip[:samples], (0, max(0, samples - len(clip))))
