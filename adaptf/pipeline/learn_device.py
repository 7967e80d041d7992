"""Trains what says the recording device by the sound alone,
and chooses when it may, on devices that it has not learnt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from adaptf.audio.logmel import LogMel
from adaptf.data.clips import TRAIN, VALIDATION
from adaptf.data.log_mels import with_log_mels
from adaptf.evaluation.predict import inference_device
from adaptf.evaluation.tables import as_markdown
from adaptf.models.classifier import Classifier
from adaptf.models.device_from_sound import DEVICE_FROM_SOUND, DeviceFromSound, band_statistics
from adaptf.pipeline.dataset import PreparedData
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun

TAKEN_AT_MOST = 0.05
"""Share of the validation clips of any device that may be taken for another one's
where the model has not learnt that device."""
_FEWEST_DEVICES = 3
"""One is left out, and the others are told apart."""
_MOST_CLIPS = 2000
"""Of a device and split: more change little, and each costs its log-mel."""
_INVERSE_PENALTY = 0.03
"""Chosen on rehearsal data, where 0.003 and 1 are hardly worse."""


@dataclass(frozen=True)
class Heard:
    """Clips of a split."""

    statistics: NDArray[np.float32]
    """(clips, statistics)"""
    device: NDArray[np.str_]
    """(clips,)"""


def with_device_from_sound(
    result: Result,
    run: StageRun,
    data: PreparedData,
    devices: Sequence[str],
    student: Classifier,
    accelerator: str,
) -> Result:
    """The result with what tells these devices by the student's log-mels, and how well;
    as it is where that can't be learnt."""
    log_mel: Any = student.features
    learnt = learn_device(data, devices, log_mel, inference_device(accelerator))
    if learnt is None:
        return result
    model, table = learnt
    path = run.folder / DEVICE_FROM_SOUND
    model.write(path)
    words = (
        f"Which device it is, by the sound alone (`device_from_sound` of `serve`), told above a probability "
        f"of {model.threshold:.3f}: so no device that a model has not learnt is taken for another on more "
        f"than {TAKEN_AT_MOST:.0%} of its clips. Validation clips in %:"
    )
    note = f"{result.note}\n\n{words}\n\n{table}"
    return replace(result, files={**result.files, DEVICE_FROM_SOUND: path}, note=note)


def learn_device(
    data: PreparedData, devices: Sequence[str], log_mel: LogMel, place: torch.device
) -> tuple[DeviceFromSound, str] | None:
    """What tells these devices, and a table in Markdown of how well; log-mels are computed at `place`.

    None where there are fewer than three devices, or one has no training or no validation clips.
    """
    there = data.table.groupby("split")["device"].unique()
    if len(devices) < _FEWEST_DEVICES or any(
        set(devices) - set(there.get(split, ())) for split in (TRAIN, VALIDATION)
    ):
        return None
    train, validation = (_hear(data, devices, split, log_mel, place) for split in (TRAIN, VALIDATION))
    sure = {device: _sureness_of_unlearnt(device, train, validation) for device in devices}
    threshold = max(_below_most(of_one) for of_one in sure.values())
    fitted = _fit(train)
    return _as_one_layer(fitted, threshold), _table(fitted, threshold, validation, sure)


def _hear(
    data: PreparedData, devices: Sequence[str], split: str, log_mel: LogMel, place: torch.device
) -> Heard:
    rows = data.table[(data.table["split"] == split) & data.table["device"].isin(devices)]
    rows = rows.sample(frac=1, random_state=0).groupby("device").head(_MOST_CLIPS)
    batches = with_log_mels(data.clip_set(rows, split), log_mel, place)
    statistics = [band_statistics(batch.features).cpu().numpy() for batch in batches]
    return Heard(np.concatenate(statistics), rows["device"].to_numpy(str))


def _fit(heard: Heard) -> Pipeline:
    """Devices count alike, however many clips each has."""
    regression = LogisticRegression(C=_INVERSE_PENALTY, class_weight="balanced", max_iter=1000)
    return make_pipeline(StandardScaler(), regression).fit(heard.statistics, heard.device)


def _sureness_of_unlearnt(device: str, train: Heard, validation: Heard) -> NDArray[np.float64]:
    """Of each validation clip of a device,
    the highest probability that a model of the other devices gives one of them."""
    others, own = train.device != device, validation.device == device
    fitted = _fit(Heard(train.statistics[others], train.device[others]))
    sureness: NDArray[np.float64] = fitted.predict_proba(validation.statistics[own]).max(axis=1)
    return sureness


def _below_most(sureness: NDArray[np.float64]) -> float:
    """A probability that no more than `TAKEN_AT_MOST` of the clips exceed."""
    return float(np.quantile(sureness, 1 - TAKEN_AT_MOST, method="higher"))


def _as_one_layer(fitted: Pipeline, threshold: float) -> DeviceFromSound:
    """The same model; what scales the statistics goes into the weights."""
    scaler, regression = (step for _, step in fitted.steps)
    weights: Any = regression.coef_ / scaler.scale_
    bias = regression.intercept_ - weights @ scaler.mean_
    weights, bias = (torch.from_numpy(one.astype(np.float32)) for one in (weights, bias))
    return DeviceFromSound([str(device) for device in regression.classes_], threshold, weights, bias)


def _table(
    fitted: Pipeline, threshold: float, validation: Heard, sure: Mapping[str, NDArray[np.float64]]
) -> str:
    """A row per device: its validation clips in %, and what is made of them where it was not learnt."""
    probabilities = fitted.predict_proba(validation.statistics)
    told = probabilities.max(axis=1) > threshold
    right = fitted.classes_[probabilities.argmax(axis=1)] == validation.device
    judged = {"told": told & right, "taken for another": told & ~right, "not told": ~told}
    table = 100 * pd.DataFrame(judged).groupby(validation.device).mean()
    table["taken for another where not learnt"] = [
        100 * (sure[str(device)] > threshold).mean() for device in table.index
    ]
    return as_markdown(table.rename_axis("device"))
