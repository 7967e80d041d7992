"""What a device's clips sound like and what its model makes of them: histograms, by which drift is seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d

from adaptf.audio.logmel import SCALE, SHIFT

KINDS = LEVEL, SPECTRUM, CONFIDENCE, SCENES = "level", "spectrum", "confidence", "scenes"
_DB = 10 / np.log(10)


def sound_values(log_mel: Tensor, *, steps: int) -> Tensor:
    """Of log-mels (clips, 1, bands, frames): the level and the spectrum in dB, (clips, 1 + steps).

    The spectrum is told by its steps from one band to the next, as wide as makes so many. A microphone's
    response is added to a log-mel and so to the steps, where a scene's broad colour and the level hardly are.
    """
    bands = (log_mel[:, 0].mean(dim=2) * SCALE - SHIFT) * _DB
    wide = adaptive_avg_pool1d(bands[:, None], steps + 1)[:, 0]
    return torch.cat([bands.mean(dim=1, keepdim=True), wide.diff(dim=1)], dim=1)


def values_by_kind(sound: Tensor, logits: Tensor) -> dict[str, NDArray[Any]]:
    """Of what `sound_values` found and logits (clips, scenes): values (clips, histograms). The confidence is
    the highest probability, the scene its place."""
    best = logits.softmax(dim=1).max(dim=1, keepdim=True)
    values = {LEVEL: sound[:, :1], SPECTRUM: sound[:, 1:], CONFIDENCE: best.values, SCENES: best.indices}
    return {kind: of_clips.numpy() for kind, of_clips in values.items()}


def histograms(values: NDArray[Any], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Values (clips, histograms), ascending edges (histograms, bins - 1) between the bins -> counts
    (histograms, bins). A value on an edge belongs below it."""
    number, bins = len(edges), edges.shape[1] + 1
    places = (values[:, :, None] > edges).sum(axis=2) + bins * np.arange(number)
    return np.bincount(places.ravel(), minlength=number * bins).reshape(number, bins)


@dataclass(frozen=True)
class Histograms:
    """Of one kind of value: one histogram, of the spectrum one per step."""

    edges: NDArray[np.float64]
    """(histograms, bins - 1)"""
    counts: NDArray[np.int64]
    """(histograms, bins) of the profile's clips."""
    limit: float
    """A distance that hardly any window of the same device and kind of places exceeds."""


@dataclass(frozen=True)
class Profile:
    """Of a device's validation clips, as its model answered them."""

    clips: int
    places: int
    """That the clips were recorded at."""
    window_clips: int
    """How many clips of a window the limits are for."""
    kinds: Mapping[str, Histograms]

    @cached_property
    def steps(self) -> int:
        """Of the spectrum."""
        return len(self.kinds[SPECTRUM].edges)

    def count(self, log_mel: Tensor, logits: Tensor) -> dict[str, NDArray[np.int64]]:
        """By kind the histograms of clips: log-mels (clips, 1, bands, frames), logits (clips, scenes)."""
        values = values_by_kind(sound_values(log_mel, steps=self.steps), logits)
        return {kind: histograms(values[kind], held.edges) for kind, held in self.kinds.items()}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        kinds = {
            kind: {"edges": held.edges.tolist(), "counts": held.counts.tolist(), "limit": held.limit}
            for kind, held in self.kinds.items()
        }
        return {
            "clips": self.clips, "places": self.places, "window_clips": self.window_clips, "kinds": kinds
        }  # fmt: skip

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """What `as_dict` gave. Raises KeyError, TypeError or ValueError where it is something else."""
        kinds = {kind: _histograms(**stored["kinds"][kind]) for kind in KINDS}
        return cls(int(stored["clips"]), int(stored["places"]), int(stored["window_clips"]), kinds)


def _histograms(*, edges: list[list[float]], counts: list[list[int]], limit: float) -> Histograms:
    held = Histograms(np.array(edges, np.float64), np.array(counts, np.int64), float(limit))
    if held.counts.ndim != 2 or held.edges.shape != (held.counts.shape[0], held.counts.shape[1] - 1):
        raise ValueError(f"{held.counts.shape} counts do not fit {held.edges.shape} edges")
    return held
