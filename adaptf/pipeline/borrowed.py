"""Other devices' clips for a device's model:
brought to its band statistics, and at most half of what it learns from."""

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
import torch

from adaptf.audio.band_matching import BandMatching, BandMoments
from adaptf.audio.logmel import LogMel
from adaptf.data.clip_set import ClipSet
from adaptf.data.log_mels import with_log_mels
from adaptf.errors import UserError
from adaptf.models.classifier import Classifier
from adaptf.pipeline.dataset import PreparedData
from adaptf.tracking.stage_run import StageRun

Borrowed = Literal["matched", "none"]


def with_borrowed(data: PreparedData, device: str, splits: Sequence[str]) -> ClipSet:
    """The device's clips of the splits and those of all others,
    its own repeated until they are half at least.

    Raises UserError where it has none.
    """
    rows = data.table[data.table["split"].isin(splits)]
    own, others = rows[rows["device"] == device], rows[rows["device"] != device]
    if own.empty:
        raise UserError(
            f"device {device} has no training clips, which its model needs: leave it out of devices"
        )
    times = max(1, round(len(others) / len(own)))
    return data.clip_set(pd.concat([*[own] * times, others]), splits[0])


def matching_to(
    device: str, data: PreparedData, classifier: Classifier, splits: Sequence[str], run: StageRun
) -> BandMatching:
    """By the clips of the splits; their moments are taken once for all devices."""
    clips = data.clips(*splits)
    logmel: Any = classifier.features  # a student's
    key = ("band moments", data.digest, clips.filenames, str(classifier.description.features))
    moments = run.shared.once(key, lambda: _moments_of(clips, logmel, devices=len(data.devices)))
    return moments.matching(data.devices.index(device))


def _moments_of(clips: ClipSet, logmel: LogMel, *, devices: int) -> BandMoments:
    """Of the log-mels of all clips."""
    moments = BandMoments(devices, clips.targets.shape[1], logmel.bands)
    for batch in with_log_mels(clips, logmel, torch.device("cpu")):
        moments.add(batch.features, batch.labels.device, batch.labels.targets.argmax(dim=1))
    return moments
