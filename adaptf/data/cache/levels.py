"""Levels of a recording, by which silent, clipped and shifted clips are found."""

import math
from typing import NamedTuple

import numpy as np

from adaptf.data.decode import Waveform

_FULL_SCALE = 0.999
"""A 16-bit converter that is driven too far gives 0.99997; resampled copies stay a little below."""


class _Levels(NamedTuple):
    """Of samples in [-1, 1]."""

    peak: float
    """Highest magnitude."""
    rms: float
    """Root of the mean square."""
    dc: float
    """Mean."""
    clipped: float
    """Share of samples at full scale."""


def levels_of(audio: Waveform) -> _Levels:
    """Levels of (samples,), as they were recorded: resampling would round off what was clipped."""
    peak = max(float(audio.max()), -float(audio.min()))
    clipped = np.count_nonzero(np.abs(audio) >= _FULL_SCALE) / len(audio) if peak >= _FULL_SCALE else 0.0
    return _Levels(
        peak, math.sqrt(np.vdot(audio, audio) / len(audio)), float(audio.sum()) / len(audio), clipped
    )
