import math

import numpy as np
import pytest
from scipy import stats

from adaptf.evaluation.intervals import mean_interval


def test_interval_is_students_t():
    values = [57.1, 58.4, 58.0, 57.7]
    found = mean_interval(values, level=0.9)
    assert (found.mean, found.std, found.runs) == (
        pytest.approx(57.8),
        pytest.approx(np.std(values, ddof=1)),
        4,
    )
    assert (found.low, found.high) == pytest.approx(
        stats.t.interval(0.9, 3, np.mean(values), stats.sem(values))
    )


def test_three_runs_as_a_table_of_students_t_gives_them():
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.mean, found.std) == (2.0, 1.0)
    assert found.high - found.mean == pytest.approx(4.303 / math.sqrt(3), rel=1e-4)


def test_one_run_has_a_mean_but_no_interval():
    found = mean_interval([0.5])
    assert (found.mean, found.runs) == (0.5, 1)
    assert all(map(math.isnan, (found.std, found.low, found.high)))


def test_no_run_is_an_error():
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([])
