"""How far a window of clips is from a profile, and how far one without any drift would be."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from adaptf.evaluation.profile import SCENES, Histograms, Profile, histograms

FEWEST_PLACES = 5
"""With fewer, nobody knows how much places differ."""
_DRAWS_AT_ONCE = 500
"""So that arrays stay at some 10 MB."""


def distance(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Between counts (..., histograms, bins): the mean over the histograms of the Jensen-Shannon distance,
    from 0, where they are alike, to 1, where they have nothing in common."""
    with np.errstate(invalid="ignore"):
        each = jensenshannon(one, other, base=2, axis=-1)
    # The root of what rounding has put below zero is no number.
    return np.asarray(np.nan_to_num(each).mean(axis=-1))


def profile_of(
    values: Mapping[str, NDArray[Any]],
    places: Sequence[str],
    *,
    scenes: int,
    window_clips: int,
    bins: int,
    false_alarms: float,
    draws: int = 10_000,
    seed: int = 0,
) -> Profile:
    """Of clips: `values` (clips, histograms) by kind, and where each clip was recorded, at FEWEST_PLACES or
    more.

    Bins of values hold equally many clips, those of scenes a scene each. A limit is a distance that a share
    `false_alarms` of windows exceeds in a bootstrap over the places, since clips of one place are alike
    (Efron and Tibshirani, 1993, An Introduction to the Bootstrap, chapter 8). It draws twice, and holds a
    window of as many places as `window_clips` have here against a profile of as many as there are: so a
    profile of few places, which is not sure itself, gets wide limits.
    """
    names, place_of = np.unique(np.asarray(places), return_inverse=True)
    shares = np.linspace(0, 1, bins + 1)[1:-1]
    edges = {kind: np.asarray(np.quantile(of_kind, shares, axis=0).T) for kind, of_kind in values.items()}
    edges[SCENES] = np.arange(scenes - 1)[None] + 0.5
    by_place = {
        kind: np.stack([histograms(of_kind[place_of == place], edges[kind]) for place in range(len(names))])
        for kind, of_kind in values.items()
    }
    in_window = max(1, round(window_clips * len(names) / len(places)))
    drawn = _drawn_distances(by_place, in_window, draws, seed)
    limits = {kind: float(np.quantile(of_kind, 1 - false_alarms)) for kind, of_kind in drawn.items()}
    kinds = {
        kind: Histograms(edges[kind], counts.sum(axis=0), limits[kind]) for kind, counts in by_place.items()
    }
    return Profile(len(places), len(names), window_clips, kinds)


def _drawn_distances(
    by_place: Mapping[str, NDArray[np.int64]], in_window: int, draws: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """By kind those of windows of so many places, (draws,), from counts (places, histograms, bins)."""
    drawn = [
        {kind: distance(_sum(window, counts), _sum(profile, counts)) for kind, counts in by_place.items()}
        for window, profile in _draws(len(by_place[SCENES]), in_window, draws, seed)
    ]
    return {kind: np.concatenate([some[kind] for some in drawn]) for kind in by_place}


def _draws(
    places: int, in_window: int, draws: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """How often each place is in a window and in a profile, (some draws, places) each."""
    generator, each = np.random.default_rng(seed), np.full(places, 1 / places)
    for start in range(0, draws, _DRAWS_AT_ONCE):
        some = min(_DRAWS_AT_ONCE, draws - start)
        yield generator.multinomial(in_window, each, some), generator.multinomial(places, each, some)


def _sum(times: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(draws, places) of (places, histograms, bins) -> (draws, histograms, bins). Products of floats are many
    times as fast as those of whole numbers."""
    return np.tensordot(times.astype(np.float64), counts.astype(np.float64), axes=1)
