"""Scores from a table of predictions:
one row per clip with filename, scene, device, location and a logit per scene."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from adaptf.data.parts import split_name
from adaptf.errors import UserError

Runs = Sequence[pd.DataFrame]
"""A setting's predictions of the same clips: one table per run, that is per seed; usually one."""

Score = Literal["mean_over_devices", "plain"]
"""Which accuracy chooses: the mean over recording devices of each one's macro average, or that of all clips
together, which those of the commonest device decide."""

TEXT_COLUMNS = ("filename", "scene", "device", "location", "predicted")
"""Of a table of predictions; the others hold a logit per scene."""


def prediction_table(clips: pd.DataFrame, logits: NDArray[np.float32], scenes: Sequence[str]) -> pd.DataFrame:
    """The clip table's filename, scene, device and location, the scene that was predicted,
    and one logit per scene.

    Raises UserError for logits that are not finite, of which the highest would be the first.
    """
    if wrong := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise UserError(
            f"the logits of {wrong} of {len(logits)} clips are not finite: the model that gave them has "
            f"diverged or overflows, train it again with a lower learning rate"
        )
    table = clips[list(TEXT_COLUMNS[:-1])].reset_index(drop=True)
    table["predicted"] = [scenes[place] for place in logits.argmax(axis=1)]
    return pd.concat([table, pd.DataFrame(logits, columns=list(scenes))], axis=1)


def probabilities(predictions: pd.DataFrame, scenes: Sequence[str]) -> NDArray[np.float64]:
    """(clips, scenes) by softmax of the logits."""
    found: NDArray[np.float64] = softmax(predictions[list(scenes)].to_numpy(np.float64), axis=1)
    return found


def places_of(predictions: pd.DataFrame) -> pd.Series:
    """Where each clip was recorded; a clip without a location counts by its file."""
    files = predictions["filename"].map(lambda name: split_name(name)[0])
    known = predictions["location"].fillna("") != ""
    return predictions["location"].where(known, files).rename("location")


def accuracy_per_scene(predictions: pd.DataFrame) -> pd.Series:
    """Share of each scene's clips that were recognised."""
    return (predictions["predicted"] == predictions["scene"]).groupby(predictions["scene"]).mean()


def macro_accuracy(predictions: pd.DataFrame) -> float:
    """The challenge's metric: the mean of the scenes' accuracies."""
    return float(accuracy_per_scene(predictions).mean())


def macro_accuracy_per_device(predictions: pd.DataFrame) -> pd.Series:
    """Macro-average accuracy on each recording device."""
    return pd.Series(
        {device: macro_accuracy(rows) for device, rows in predictions.groupby("device")}, dtype=float
    )


def accuracy(predictions: pd.DataFrame, score: Score) -> float:
    """By which checkpoints and settings are chosen;
    each mean is over the scenes and devices that there are."""
    return (
        macro_accuracy(predictions)
        if score == "plain"
        else float(macro_accuracy_per_device(predictions).mean())
    )


def absent_scenes(predictions: pd.DataFrame, scenes: Sequence[str]) -> dict[str, list[str]]:
    """By device the scenes that its mean leaves out, as there is no clip of them;
    devices with all scenes are not there."""
    found = {str(device): set(rows) for device, rows in predictions.groupby("device")["scene"]}
    absent = {device: [scene for scene in scenes if scene not in there] for device, there in found.items()}
    return {device: lacking for device, lacking in absent.items() if lacking}


def say_absent(absent: Mapping[str, Sequence[str]]) -> str:
    """A sentence, empty where nothing is absent."""
    devices = "; ".join(f"{device} ({', '.join(scenes)})" for device, scenes in absent.items())
    return f"Means leave out scenes of which a device has no clip: {devices}." if devices else ""


def log_loss(predictions: pd.DataFrame, scenes: Sequence[str]) -> float:
    """Mean over the scenes of the mean negative log-probability of the true scene,
    as in the challenge's tables."""
    log_probabilities = log_softmax(predictions[list(scenes)].to_numpy(np.float64), axis=1)
    place = predictions["scene"].map({scene: row for row, scene in enumerate(scenes)}).to_numpy()
    losses = pd.Series(-log_probabilities[np.arange(len(place)), place])
    return float(losses.groupby(predictions["scene"].to_numpy()).mean().mean())


def confusion(runs: Runs, scenes: Sequence[str]) -> pd.DataFrame:
    """Clips by true (rows) and predicted scene (columns), summed over the runs."""
    predictions = pd.concat([run[["scene", "predicted"]] for run in runs], ignore_index=True)
    counts = pd.crosstab(predictions["scene"], predictions["predicted"])
    return counts.reindex(index=list(scenes), columns=list(scenes), fill_value=0)
