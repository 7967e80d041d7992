"""Logarithms of mel energies by their published formulas in float64, and how far off float32 may be."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float64]
EPSILON = float(np.finfo(np.float32).eps)


class LogEnergies(NamedTuple):
    """Natural logarithms (clips, frames, bands)."""

    exact: Array
    rounding: Array
    """What they move by if each sample of a frame is rounded to float32 once. A band that holds next to
    nothing of its frame is made of such errors alone, and an FFT, whichever it is, brings a few of them."""


@pytest.fixture(scope="session")
def log_energies() -> Callable[..., LogEnergies]:
    return log_energies_of


def log_energies_of(
    heard: Array,
    emphasised: Array,
    *,
    n_fft: int,
    bands: int,
    sample_rate: int,
    low_hz: float,
    offset: float,
    floor: float,
) -> LogEnergies:
    """Of windowed frames (clips, frames, samples), as they were recorded and as they are transformed."""
    spectrum = np.abs(np.fft.rfft(emphasised, n_fft))
    filters = kaldi_filters(bands, n_fft, sample_rate, low_hz)
    energies = np.maximum(spectrum**2 @ filters.T, floor) + offset
    error = EPSILON * np.linalg.norm(heard, axis=2, keepdims=True)
    return LogEnergies(np.log(energies), EPSILON + (2 * error * spectrum + error**2) @ filters.T / energies)


def kaldi_filters(bands: int, n_fft: int, sample_rate: int, low_hz: float) -> Array:
    """(bands, bins): triangles up to Nyquist, whose own bin has no weight."""
    edges = np.linspace(mel(low_hz), mel(sample_rate / 2), bands + 2)
    bins = mel(np.arange(n_fft // 2 + 1) * sample_rate / n_fft)
    left, centre, right = (edges[place : place + bands, None] for place in range(3))
    filters = np.maximum(0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))
    filters[:, -1] = 0
    return filters


def mel(hz: float | Array) -> Array:
    return 1127 * np.log1p(np.asarray(hz) / 700)
