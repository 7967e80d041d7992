"""Forward filtering: the scene of a stream so far, from the probabilities of its seconds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STAY_SECONDS = 120.0
"""How long somebody stays in a scene, where nobody says it."""
LONGEST_MEMORY, _SHORTEST_MEMORY = 10, 3
"""Seconds. Recordings of ten seconds, by which streams are calibrated, tell nothing of longer ones."""
_MEMORIES_PER_STAY = 12
"""With a longer memory a change is noticed too late (benchmarks/streams.py)."""


@dataclass(frozen=True)
class StreamCalibration:
    """What makes a network's seconds the evidence of a stream, chosen on validation clips."""

    factor: float
    """Of the logits, so that a single second's probabilities are right: 1 / temperature."""
    dependence: float
    """From 0, seconds are independent, to 1, more of them say no more than one."""
    threshold: float
    """A probability below which an answer is wrong more often than right."""


@dataclass(frozen=True)
class Belief:
    """What a stream has told so far."""

    probabilities: NDArray[np.float64]
    """(..., scenes)"""
    remembered: float = 0.0
    """Seconds that have a part in it."""


def no_belief(*shape: int) -> Belief:
    """Before the first second; the last of the shape is the number of scenes."""
    return Belief(np.full(shape, 1 / shape[-1]))


def later(belief: Belief, seconds: int, *, stay_seconds: float) -> Belief:
    """After seconds that nobody heard: a scene is left for any of the others with one and the same
    probability, after `stay_seconds` on average."""
    scenes = belief.probabilities.shape[-1]
    stays = np.exp(-1 / stay_seconds)
    kept = max(0.0, (stays * scenes - 1) / (scenes - 1)) ** seconds
    probabilities = 1 / scenes + kept * (belief.probabilities - 1 / scenes)
    return Belief(probabilities, kept * belief.remembered)


def heard(
    belief: Belief,
    probabilities: NDArray[np.float64],
    calibration: StreamCalibration,
    *,
    stay_seconds: float,
) -> Belief:
    """After one more second, of which a network says `probabilities` (..., scenes).

    The forward algorithm (Rabiner, 1989), where the seconds of one place are not independent: n of them count
    as n / (1 + (n - 1) dependence), the effective sample size of equally correlated ones (Kish, 1965, Survey
    Sampling). So what was known weighs less with each second, and from the memory's length on as much as
    each new one takes away. The scenes are equally frequent.
    """
    memory = min(max(_SHORTEST_MEMORY, stay_seconds / _MEMORIES_PER_STAY), LONGEST_MEMORY)
    before, now = belief.remembered, min(belief.remembered + 1, memory)
    weight, former = _weight(now, calibration.dependence), _weight(before, calibration.dependence)
    kept = (now - 1) * weight / (before * former) if before else 0.0
    known = later(belief, 1, stay_seconds=stay_seconds).probabilities
    evidence = kept * np.log(known) + weight * calibration.factor * _log(probabilities)
    raised = np.exp(evidence - evidence.max(axis=-1, keepdims=True))
    return Belief(raised / raised.sum(axis=-1, keepdims=True), now)


def _weight(seconds: float, dependence: float) -> float:
    """Of each of so many, as a part of a single one's."""
    return 1 / (1 + max(0.0, seconds - 1) * dependence)


def _log(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Also of those that are too small for a number."""
    found: NDArray[np.float64] = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return found
