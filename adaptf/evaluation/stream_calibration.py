"""What makes seconds the evidence of a stream, found on recordings of which every second was predicted."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from adaptf.data.parts import split_name
from adaptf.evaluation.calibration import ACCURACY, best_temperature, rejection_curve
from adaptf.evaluation.forward_filter import (
    LONGEST_MEMORY,
    STAY_SECONDS,
    StreamCalibration,
    heard,
    no_belief,
)

Recordings = tuple[NDArray[np.float64], NDArray[np.integer]]
"""Logits (recordings, seconds, scenes) and true scenes (recordings,)."""
_SEGMENT = r"^(.+-\d+)-(\d+)(-[^-/]+)$"
"""Of TAU, as in airport-lisbon-1000-40000-7-a.wav: recording, second, device."""


def calibrate_stream(predictions: pd.DataFrame, scenes: Sequence[str]) -> StreamCalibration:
    """From a table of predictions: the temperature of single seconds, then the dependence by which the log
    loss of all seconds of recordings is lowest, then the threshold.

    Where nothing tells a recording's seconds, they are taken for wholly dependent.
    """
    factor = _factor_of(predictions, scenes)
    batches = recordings_of(predictions, scenes)

    def log_loss(dependence: float) -> float:
        calibration = StreamCalibration(factor, dependence, 0.0)
        losses = [-np.log(_of_truth(filtered(logits, calibration), truth)) for logits, truth in batches]
        return float(np.concatenate([loss.ravel() for loss in losses]).mean())

    several = any(logits.shape[1] > 1 for logits, _ in batches)
    found = minimize_scalar(log_loss, bounds=(0, 1), method="bounded").x if several else 1.0
    return StreamCalibration(factor, float(found), _threshold(batches, factor, float(found)))


def recordings_of(predictions: pd.DataFrame, scenes: Sequence[str]) -> list[Recordings]:
    """Those of each length, by names; of longer ones the first ten seconds."""
    told = seconds_of_recordings(predictions["filename"])
    table = predictions.join(told).sort_values(["recording", "second"])
    table = table[table.groupby("recording").cumcount() < LONGEST_MEMORY]
    seconds = table.groupby("recording")["second"].transform("size")
    place = {scene: number for number, scene in enumerate(scenes)}
    return [
        (
            rows[list(scenes)].to_numpy(np.float64).reshape(-1, int(length), len(scenes)),
            rows["scene"].iloc[:: int(length)].map(place).to_numpy(np.intp),
        )
        for length, rows in table.groupby(seconds)
    ]


def seconds_of_recordings(filenames: pd.Series) -> pd.DataFrame:
    """Of clips the recording and which second of it they are, by the rows of their names. A clip that is no
    part of one is one."""
    names = pd.DataFrame(list(map(split_name, filenames)), filenames.index, ["file", "second"])
    parts = names["file"].str.replace(r"\.\w+$", "", regex=True).str.extract(_SEGMENT)
    return pd.DataFrame(
        {
            "recording": (parts[0] + parts[2]).fillna(names["file"]),
            "second": parts[1].astype(float).fillna(names["second"].astype(float)),
        }
    )


def filtered(
    logits: NDArray[np.float64], calibration: StreamCalibration, *, stay_seconds: float = STAY_SECONDS
) -> NDArray[np.float64]:
    """(streams, seconds, scenes) -> probabilities after each second, of the same shape."""
    belief, found = no_belief(len(logits), logits.shape[2]), []
    for probabilities in softmax(logits, axis=2).swapaxes(0, 1):
        belief = heard(belief, probabilities, calibration, stay_seconds=stay_seconds)
        found.append(belief.probabilities)
    return np.stack(found, axis=1)


def _factor_of(predictions: pd.DataFrame, scenes: Sequence[str]) -> float:
    """1 / temperature of single seconds; 1 where none is best."""
    truth = predictions["scene"].map({scene: place for place, scene in enumerate(scenes)}).to_numpy()
    try:
        return 1 / best_temperature(predictions[list(scenes)].to_numpy(np.float64), truth)
    except ValueError:
        return 1.0


def _of_truth(probabilities: NDArray[np.float64], truth: NDArray[np.integer]) -> NDArray[np.float64]:
    """(streams, seconds), such that there is a logarithm"""
    found = np.take_along_axis(probabilities, truth[:, None, None], axis=2)[:, :, 0]
    return np.maximum(found, np.finfo(np.float64).tiny)


def _threshold(batches: Sequence[Recordings], factor: float, dependence: float) -> float:
    """The one above which right answers outnumber wrong ones the most; 1 where they never do."""
    confidence, correct = [], []
    for logits, truth in batches:
        found = filtered(logits, StreamCalibration(factor, dependence, 0.0))
        confidence.append(found.max(axis=2).ravel())
        correct.append((found.argmax(axis=2) == truth[:, None]).ravel())
    curve = rejection_curve(np.concatenate(confidence), np.concatenate(correct))
    gain = (curve["coverage"] * (curve[ACCURACY] - 0.5)).to_numpy()
    return float(curve["threshold"].to_numpy()[gain.argmax()]) if gain.max() > 0 else 1.0
