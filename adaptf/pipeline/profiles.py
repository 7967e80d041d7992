"""The profiles of a quantization's devices: what drift is told from once their models serve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch

from adaptf.audio.logmel import LogMel
from adaptf.data.clips import UNKNOWN, VALIDATION
from adaptf.data.parquet import read_table
from adaptf.errors import UserError
from adaptf.evaluation.drift import FEWEST_PLACES, profile_of
from adaptf.evaluation.predict import predict_logits
from adaptf.evaluation.profile import Profile, sound_values, values_by_kind
from adaptf.evaluation.scores import places_of
from adaptf.names import written
from adaptf.pipeline.artifacts import SCENES_KIND, VALIDATION_PREDICTIONS
from adaptf.pipeline.dataset import look_at_prepared
from adaptf.pipeline.ranges import COUNT, Range, within
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import UPSTREAM

_TWO_OR_MORE = Range("2 or more", lambda number: number >= 2)
_RARE = Range("from 0.001 to 0.1", lambda number: 0.001 <= number <= 0.1)


@dataclass(frozen=True)
class ProfileConfig:
    """By what a served model's drift is told."""

    window_clips: int = within(COUNT, 300)
    """Clips of a device that are compared with its validation clips at a time."""
    bins: int = within(_TWO_OR_MORE, 10)
    """Of each histogram but that of scenes; each holds equally many validation clips."""
    steps: int = within(COUNT, 31)
    """Of the spectrum from band to band; where there are fewer mel bands, one less than these."""
    false_alarms: float = within(_RARE, 0.001)
    """Share of windows that may leave the range of level, spectrum, confidence or scenes though nothing has
    changed."""


def device_profiles(
    run: StageRun, quantize_run: str, scenes: Sequence[str], mel: Mapping[str, Any], config: ProfileConfig
) -> dict[str, Profile]:
    """By device, of its own validation clips, of `unknown` of all; a device with clips of too few places has
    none, and no device where this machine has no validation clips. Says what they are made of."""
    try:
        predictions = _predictions(run.download(quantize_run, VALIDATION_PREDICTIONS))
        sound = _sound(run, quantize_run, LogMel(**mel), config.steps)
    except UserError as error:
        print(f"{run.name}: drift is not watched: there is nothing to make profiles of: {error}", flush=True)
        return {}
    found = {}
    for device, table in predictions.items():
        rows = table if device == UNKNOWN else table[table["device"] == device]
        clips, places = rows["filename"], places_of(rows)
        of = f"{len(clips)} validation clips of {places.nunique()} places"
        if places.nunique() < FEWEST_PLACES:
            print(f"{run.name}: drift of {device} is not watched: {of}, it takes {FEWEST_PLACES}", flush=True)
            continue
        logits = torch.from_numpy(rows[list(scenes)].to_numpy(np.float32, copy=True))
        found[device] = profile_of(
            values_by_kind(torch.from_numpy(sound.loc[clips].to_numpy(copy=True)), logits),
            list(places),
            scenes=len(scenes),
            window_clips=config.window_clips,
            bins=config.bins,
            false_alarms=config.false_alarms,
        )
        print(f"{run.name}: drift of {device} is told by {of}", flush=True)
    return found


def _predictions(folder: Path) -> dict[str, pd.DataFrame]:
    """By device what its model made of all validation clips."""
    return {written(path.stem): read_table(path) for path in sorted(folder.glob("[!.]*.parquet"))}


def _sound(run: StageRun, quantize_run: str, log_mel: LogMel, steps: int) -> pd.DataFrame:
    """What `sound_values` finds of the validation clips, by file name."""
    prepared = mlflow.get_run(quantize_run).data.tags[f"{UPSTREAM}prepare_run"]
    clips = look_at_prepared(run, prepared, kind=SCENES_KIND).clips(VALIDATION)
    steps = min(steps, log_mel.bands - 1)
    values = predict_logits(
        lambda waveforms: sound_values(log_mel(waveforms), steps=steps), clips, name="profiles"
    )
    return pd.DataFrame(values, list(clips.filenames))
