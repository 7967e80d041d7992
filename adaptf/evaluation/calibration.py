"""How far a model's confidence can be believed:
calibration error, and accuracy where unsure clips are left out."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptf.evaluation.scores import Runs, probabilities

BINS = 15
"""Of equal width (Guo et al., 2017)."""
CONFIDENCE, ACCURACY, CALIBRATION_ERROR = "mean confidence", "accuracy", "calibration error"
_COVERAGES = np.linspace(0.05, 1, 96)
"""Shares of the clips, at which several runs' curves are averaged;
fewer than one in twenty are too few to judge by."""
_SURE_SHARES = (0.8, 0.5)


def confidence_of(run: pd.DataFrame, scenes: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(clips,) probability of the scene that was predicted, and (clips,) whether it is the true one."""
    return probabilities(run, scenes).max(axis=1), (run["predicted"] == run["scene"]).to_numpy(dtype=bool)


def reliability_table(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], *, bins: int = BINS
) -> pd.DataFrame:
    """A row per bin (low, high] of the confidence: low, high, clips, mean confidence, accuracy; nan in a bin
    without clips."""
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    clips, sure, right = (
        np.bincount(place, weights, minlength=bins) for weights in (None, confidence, correct)
    )
    with np.errstate(invalid="ignore"):  # 0 / 0
        columns = {
            "low": edges[:-1],
            "high": edges[1:],
            "clips": clips,
            CONFIDENCE: sure / clips,
            ACCURACY: right / clips,
        }
    return pd.DataFrame(columns)


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error, a fraction:
    mean of |accuracy - confidence| over a reliability table's clips.

    Naeini et al., 2015; with bins of equal width on the predicted class alone, Guo et al., 2017.
    0 is calibrated.
    """
    gaps = (table[ACCURACY] - table[CONFIDENCE]).abs().fillna(0)
    return float(np.average(gaps, weights=table["clips"]))


def rejection_curve(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> pd.DataFrame:
    """Rows from the surest clip on:
    coverage (share of clips answered), threshold (lowest confidence answered), their accuracy.

    The risk-coverage curve (El-Yaniv and Wiener, 2010; Geifman and El-Yaniv, 2017), as accuracy. Clips of one
    confidence are answered together or not at all.
    """
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(order) + 1)
    threshold = confidence[order]
    curve = {
        "coverage": answered / len(order),
        "threshold": threshold,
        ACCURACY: correct[order].cumsum() / answered,
    }
    is_last_of_equals = np.append(threshold[1:] != threshold[:-1], True)
    return pd.DataFrame(curve)[is_last_of_equals].reset_index(drop=True)


def accuracy_at(curve: pd.DataFrame, coverages: NDArray[np.float64]) -> NDArray[np.float64]:
    """(coverages,) accuracy where at least this share of the clips, and as few beyond it as can be,
    is answered."""
    enough = np.searchsorted(curve["coverage"].to_numpy(), coverages - 1e-9)
    return curve[ACCURACY].to_numpy()[enough]


def reliability_tables(settings: Mapping[str, Runs], scenes: Sequence[str]) -> pd.DataFrame:
    """The reliability tables of the settings, each of the clips of all its runs together,
    one below the other."""
    tables = {}
    for setting, runs in settings.items():
        confidence, correct = (
            np.concatenate(values)
            for values in zip(*(confidence_of(run, scenes) for run in runs), strict=True)
        )
        tables[setting] = reliability_table(confidence, correct)
    return pd.concat(tables, names=["setting", "bin"]).reset_index("bin", drop=True)


def rejection_table(settings: Mapping[str, Runs], scenes: Sequence[str]) -> pd.DataFrame:
    """Accuracy in percent of the surest clips, by their share in percent (rows) and setting (columns):
    means over runs."""
    columns = {
        setting: np.mean(
            [accuracy_at(rejection_curve(*confidence_of(run, scenes)), _COVERAGES) for run in runs], axis=0
        )
        * 100
        for setting, runs in settings.items()
    }
    return pd.DataFrame(columns, index=pd.Index(_COVERAGES.round(4) * 100, name="share of clips answered"))


def calibration_table(settings: Mapping[str, Runs], scenes: Sequence[str]) -> pd.DataFrame:
    """A row per setting, in percent, means over runs:
    accuracy, mean confidence, calibration error, accuracy of the surest.

    Accuracy is the plain share of the clips that were recognised, no macro average.
    """
    rows = {
        setting: np.mean([_figures(run, scenes) for run in runs], axis=0) * 100
        for setting, runs in settings.items()
    }
    columns = [
        ACCURACY,
        CONFIDENCE,
        CALIBRATION_ERROR,
        *(f"surest {share * 100:.0f} %" for share in _SURE_SHARES),
    ]
    return pd.DataFrame(rows, index=columns).T.rename_axis("setting")


def _figures(run: pd.DataFrame, scenes: Sequence[str]) -> list[float]:
    confidence, correct = confidence_of(run, scenes)
    error = calibration_error(reliability_table(confidence, correct))
    surest = accuracy_at(rejection_curve(confidence, correct), np.array(_SURE_SHARES))
    return [float(correct.mean()), float(confidence.mean()), error, *surest]
