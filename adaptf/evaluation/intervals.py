"""The mean of a few runs, with its confidence interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class MeanInterval:
    """The mean of the runs' values; standard deviation and interval are nan where there is one run."""

    mean: float
    std: float
    """Of the sample, with n - 1."""
    low: float
    high: float
    runs: int


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> MeanInterval:
    """Mean of independent runs with Student's t interval (Student, 1908, The probable error of a mean).

    `level` is the share of such intervals that hold the true mean. Raises ValueError where there is no value.
    """
    runs = len(values)
    if runs == 0:
        raise ValueError("the mean of no runs is not defined: at least one value is needed")
    mean = float(np.mean(values))
    if runs == 1:
        return MeanInterval(mean, math.nan, math.nan, math.nan, runs)
    std = float(np.std(values, ddof=1))
    half_width = float(stats.t.ppf((1 + level) / 2, runs - 1)) * std / math.sqrt(runs)
    return MeanInterval(mean, std, mean - half_width, mean + half_width, runs)
