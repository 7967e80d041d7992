"""Whether two settings differ: a paired bootstrap over the places that the test clips were recorded at."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from adaptf.data.errors import DataError
from adaptf.evaluation.intervals import MeanInterval, mean_interval
from adaptf.evaluation.scores import Runs, macro_accuracy, places_of

_TAIL = 0.025
"""On each side of a 95 % interval."""
SIGNIFICANT = 0.05
"""p, corrected for how many are looked at, below which a difference stands."""
DRAWS = 10_000
"""By default."""
BLOCK = 2**22
"""Drawn locations at a time: two arrays of 32 MiB."""


@dataclass(frozen=True)
class Difference:
    """What the second setting has over the first, in macro-average class-wise accuracy (a fraction),
    with 95 % intervals."""

    mean: float
    """Over the pairs of runs."""
    low: float
    """Of the interval over locations; nan where every scene has a single one."""
    high: float
    locations: int
    """How many were resampled; a place where clips of two scenes were recorded counts twice."""
    runs: int
    """Pairs of runs."""
    runs_low: float
    """Of the interval over pairs of runs; nan with one pair."""
    runs_high: float
    single_location_scenes: tuple[str, ...]
    """Scenes whose places cannot be resampled, because there is one:
    the interval over locations is too narrow by them."""
    p: float
    """Two-sided, of no difference: the larger one of that over locations and, with several pairs, that over
    runs, because both have to be small; nan where there is no interval."""

    @property
    def stands(self) -> bool:
        """Whether zero lies outside of the interval over locations and, with several pairs,
        of that over runs too."""
        over_locations = self.low > 0 or self.high < 0
        over_runs = self.runs == 1 or self.runs_low > 0 or self.runs_high < 0
        return over_locations and over_runs


def paired_bootstrap(first: Runs, second: Runs, *, draws: int = DRAWS, seed: int = 0) -> Difference:
    """The difference between two settings,
    its percentile interval over locations and its t interval over runs.

    Clips of one place are alike, so places are drawn and not clips, the same ones for both settings (Efron
    and Tibshirani, 1993, An Introduction to the Bootstrap, chapters 8 and 13). Run i of the one is paired
    with run i of the other. Clips without a location count by file.
    Raises DataError where the settings have unequal numbers of runs or other clips.
    """
    _check_runs(first, second)
    _check_clips(first, second)
    over_runs = mean_interval(
        [macro_accuracy(new) - macro_accuracy(old) for old, new in zip(first, second, strict=True)]
    )
    units = _per_location(first[0], _correct(second) - _correct(first))
    single = _single_location_scenes(units)
    low, high, p = math.nan, math.nan, math.nan
    if len(units) > len(single):
        drawn = _draw(units, draws, seed) / len(first)
        low, high = np.quantile(drawn, [_TAIL, 1 - _TAIL]).tolist()
        p = max(_p_over_locations(drawn, units.drop(list(single), level="scene")), _p_over_runs(over_runs))
    return Difference(
        mean=over_runs.mean,
        low=low,
        high=high,
        locations=len(units),
        runs=len(first),
        runs_low=over_runs.low,
        runs_high=over_runs.high,
        single_location_scenes=single,
        p=p,
    )


def _check_runs(first: Runs, second: Runs) -> None:
    if len(first) != len(second) or not first:
        raise DataError(
            "runs are compared in pairs, so both settings should have the same number of them, at least one: "
            f"the first has {len(first)}, the second {len(second)}"
        )


def _check_clips(first: Runs, second: Runs) -> None:
    """Each table is held against the first one."""
    expected = pd.Index(first[0]["filename"])
    for setting, runs in (("first", first), ("second", second)):
        for number, run in enumerate(runs, 1):
            here, there = f"run {number} of the {setting} setting", "run 1 of the first setting"
            found = pd.Index(run["filename"])
            if found.has_duplicates:
                raise DataError(
                    f"{here} predicts {found[found.duplicated()][0]} twice: each clip should have one row"
                )
            for clips, one, other in (
                (found.difference(expected), here, there),
                (expected.difference(found), there, here),
            ):
                if len(clips):
                    raise DataError(
                        f"{clips[0]} is predicted in {one} but not in {other}: both should hold the same "
                        "clips"
                    )


def _correct(runs: Runs) -> pd.Series:
    """How many of the runs recognised a clip, by file name."""
    rows = pd.concat([run[["filename", "scene", "predicted"]] for run in runs], ignore_index=True)
    return (rows["predicted"] == rows["scene"]).groupby(rows["filename"]).sum()


def _per_location(run: pd.DataFrame, gains: pd.Series) -> pd.DataFrame:
    """Sums of the clips' gains and counts of `clips`:
    a row per scene and location, sorted, whatever the clips' order."""
    gain = run["filename"].map(gains).groupby([run["scene"], places_of(run)])
    return pd.DataFrame({"gain": gain.sum(), "clips": gain.count()})


def _single_location_scenes(units: pd.DataFrame) -> tuple[str, ...]:
    locations = units.groupby(level="scene").size()
    return tuple(locations.index[locations == 1])


def _p_over_locations(drawn: NDArray[np.float64], units: pd.DataFrame) -> float:
    """Twice the share of draws on the far side of zero (Davison and Hinkley, 1997, Bootstrap Methods, section
    4.4).

    A few places that happen to agree are no proof, whatever is drawn from them: p is never below that of a
    sign test in which all places that differ agree (Dixon and Mood, 1946, The statistical sign test).
    """
    beyond = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    differing = np.count_nonzero(units["gain"])
    return min(1.0, max(2 * (1 + beyond) / (1 + len(drawn)), 2.0 ** (1 - differing)))


def _p_over_runs(over_runs: MeanInterval) -> float:
    """Of Student's t test, as the interval; 0, which decides nothing, with one pair of runs."""
    if over_runs.runs == 1:
        return 0.0
    if over_runs.std == 0:
        return float(over_runs.mean == 0)
    t = abs(over_runs.mean) / over_runs.std * math.sqrt(over_runs.runs)
    return float(2 * stats.t.sf(t, over_runs.runs - 1))


def _draw(units: pd.DataFrame, draws: int, seed: int) -> NDArray[np.float64]:
    """(draws,) macro averages of the gain per clip.

    Each scene keeps its number of locations, because the test set was made so: the places were chosen scene
    by scene. Drawn from all of them, a scene could lack clips, and the macro average would not be defined.
    """
    generator = np.random.default_rng(seed)
    scenes = [_draw_scene(scene, draws, generator) for _, scene in units.groupby(level="scene")]
    return np.mean(scenes, axis=0)


def _draw_scene(units: pd.DataFrame, draws: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """(draws,) gains per clip of one scene, from its locations drawn with replacement."""
    gain, clips = units["gain"].to_numpy(), units["clips"].to_numpy()
    locations, drawn = len(units), np.empty(draws)
    rows = max(1, BLOCK // locations)
    for start in range(0, draws, rows):
        block = drawn[start : start + rows]
        chosen = generator.integers(locations, size=(len(block), locations))
        block[:] = gain[chosen].sum(axis=1) / clips[chosen].sum(axis=1)
    observed = gain.sum() / clips.sum()
    # n drawn of n locations vary by (n - 1) / n too little, which a few locations per scene make felt; hence
    # the stretch (Rao and Wu, 1988, Resampling inference with complex survey data).
    return observed + math.sqrt(locations / max(1, locations - 1)) * (drawn - observed)
