"""Which recording device it is, by the sound alone: a linear model on statistics of log-mels."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

DEVICE_FROM_SOUND = "device_from_sound.json"
"""Artifact of `finetune`, and the same file in a router's bundle."""


def band_statistics(log_mel: Tensor) -> Tensor:
    """Log-mels (clips, 1, bands, frames) -> (clips, 2 * bands - 1): differences of neighbouring bands' means
    over time, and each band's deviation.

    A microphone's response is added to a log-mel, and does not change in a clip. Scenes colour a spectrum
    broadly, so neighbouring bands alike; what is left between them is the device's for the most part.
    """
    bands = log_mel[:, 0]
    return torch.cat([bands.mean(dim=2).diff(dim=1), bands.std(dim=2)], dim=1)


@dataclass(frozen=True)
class DeviceFromSound:
    """Says one of the devices that it has learnt, or that it can't tell."""

    devices: Sequence[str]
    threshold: float
    """A probability; at this or a lower one it can't tell."""
    weights: Tensor
    """(devices, statistics)"""
    bias: Tensor
    """(devices,)"""

    def probabilities(self, log_mel: Tensor) -> Tensor:
        """(clips, 1, bands, frames) -> (clips, devices)."""
        return (band_statistics(log_mel) @ self.weights.T + self.bias).softmax(dim=1)

    def tell(self, log_mel: Tensor) -> str | None:
        """The device that recorded these clips, all by one, by the mean of their probabilities;
        None where it can't tell."""
        mean = self.probabilities(log_mel).mean(dim=0)
        best = int(mean.argmax())
        return self.devices[best] if float(mean[best]) > self.threshold else None

    def write(self, path: Path) -> None:
        """As JSON."""
        arrays = {"weights": self.weights.tolist(), "bias": self.bias.tolist()}
        path.write_text(json.dumps({"devices": list(self.devices), "threshold": self.threshold} | arrays))

    @classmethod
    def read(cls, path: Path, *, bands: int) -> Self:
        """What was written. Raises ValueError where it is not for log-mels of so many bands."""
        stored = json.loads(path.read_text())
        devices = stored["devices"]
        weights, bias = torch.tensor(stored["weights"]), torch.tensor(stored["bias"])
        if (weights.shape, bias.shape) != ((len(devices), 2 * bands - 1), (len(devices),)):
            raise ValueError(f"{path.name} is not for {len(devices)} devices and {bands} bands")
        return cls(devices, float(stored["threshold"]), weights, bias)
