"""What is wrong or odd with the clips of a data set:
leaks between its splits are errors, the rest is worth knowing."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptf.data.clips import TEST, TRAIN, VALIDATION
from adaptf.data.errors import raise_problems
from adaptf.names import alike

_SILENT_PEAK = 1e-4
"""Of full scale, -80 dBFS: three steps of a 16-bit file.
The noise of any microphone that was on lies above."""
_CLIPPED_SHARE = 1e-3
"""Of the samples of a clip, 44 of a second at 44.1 kHz. A few at full scale are loud peaks; more are tops cut
off, and the harmonics that come of it tell of the gain rather than of the scene."""
_DC_OFFSET = 0.02
"""Of full scale, -34 dBFS. Sound inputs block direct current:
in 1,886 seconds of recorded scenes the median was 0.0002 and the highest 0.014."""
_DC_SHARE_OF_RMS = 0.1
"""An offset is also more than this share of what sounds: over one second even a 10 Hz rumble has a mean of up
to 0.045 of its RMS, so that a loud one passes _DC_OFFSET without a fault."""
_LENGTH_TOLERANCE_SECONDS = 1e-3
"""Encoders and resampling round the length of a clip."""
_LOCATIONS_TO_CUT = 2
"""One for each side of the validation cut."""


@dataclass(frozen=True)
class Finding:
    """Something to know about some of the clips before training on them."""

    name: str
    files: tuple[str, ...]
    """The clips; of duplicates 'a = b', of scenes and locations their names with what was counted."""
    meaning: str


def check_leaks(
    table: pd.DataFrame,
    *,
    silent: Sequence[bool] | NDArray[np.bool_] | None = None,
    cut_by_file: Collection[str] = (),
    source: str = "the data",
) -> None:
    """Raises DataError where splits share audio (equal keys), or train and validation share a location.

    `silent` (clips,) marks clips that hold nothing: all digital silence is equal. Without a location column,
    where a location is '', and of scenes whose files were cut (`cut_by_file`), only the audio is compared.
    """
    heard = table if silent is None else table[~np.asarray(silent, dtype=bool)]
    problems = [
        f"the same audio is in two splits: {clips}; leave it in one of them"
        for clips in _in_several_splits(heard, "key")
    ]
    if "location" in table.columns:
        by_location = (table["location"] != "") & ~table["scene"].isin(cut_by_file)
        cut = table[table["split"].isin([TRAIN, VALIDATION]) & by_location]
        problems += [
            f"location '{location}' is on both sides of the validation cut: {clips}; leave it on one side"
            for location, clips in _in_several_splits(cut, "location").items()
        ]
    raise_problems(problems, of=f"the splits of {source}")


def _in_several_splits(table: pd.DataFrame, column: str) -> pd.Series:
    """'a.wav (train) and b.wav (test)', the first clip of each split,
    by the values of a column that several splits share."""
    firsts = table.drop_duplicates([column, "split"])
    firsts = firsts[firsts.duplicated(column, keep=False)]
    return (
        (firsts["filename"] + " (" + firsts["split"] + ")")
        .groupby(firsts[column], sort=False)
        .agg(" and ".join)
    )


def is_silent(levels: pd.DataFrame) -> NDArray[np.bool_]:
    """(clips,) where the peak stays below _SILENT_PEAK."""
    return (levels["peak"] < _SILENT_PEAK).to_numpy()


def _has_dc_offset(levels: pd.DataFrame) -> NDArray[np.bool_]:
    """(clips,) where the mean lies beyond _DC_OFFSET and beyond _DC_SHARE_OF_RMS of the RMS around it."""
    offset = levels["dc"].abs().to_numpy()
    sounding_power = np.maximum(levels["rms"].to_numpy() ** 2 - offset**2, 0)
    return (offset > _DC_OFFSET) & (offset > _DC_SHARE_OF_RMS * np.sqrt(sounding_power))


def find(table: pd.DataFrame, levels: pd.DataFrame, *, clip_seconds: float) -> list[Finding]:
    """What is odd in a clip table; `levels` has a row for each of its rows. Nothing odd is an empty list.

    `levels`: seconds, peak, rms, dc, and clipped, the share of samples at full scale.
    """
    findings = [
        _duplicates(table[~is_silent(levels)]),
        *_odd_clips(table["filename"].to_numpy(), levels, clip_seconds),
    ]
    findings.append(_alike_names(table))
    if "location" in table.columns:
        findings += [_scenes_of_few_locations(table), _tested_locations(table)]
    return [finding for finding in findings if finding.files]


def _duplicates(table: pd.DataFrame) -> Finding:
    copies = table[table.duplicated(["split", "key"], keep=False)]
    groups = copies.groupby(["split", "key"], sort=False)["filename"].agg(" = ".join)
    return Finding(
        "duplicates",
        tuple(groups),
        "the same audio under several names of one split: it counts more than once",
    )


def _alike_names(table: pd.DataFrame) -> Finding:
    named = [column for column in ("scene", "device", "location", "city") if column in table.columns]
    groups = [f"{column} {' = '.join(names)}" for column in named for names in alike(table[column].unique())]
    return Finding(
        "names that look alike",
        tuple(groups),
        "to the program these are different names: perhaps one is meant",
    )


def _odd_clips(filenames: NDArray[np.object_], levels: pd.DataFrame, clip_seconds: float) -> list[Finding]:
    clipped = (levels["clipped"] > _CLIPPED_SHARE).to_numpy()
    short = (levels["seconds"] < clip_seconds - _LENGTH_TOLERANCE_SECONDS).to_numpy()
    silence_dbfs = 20 * math.log10(_SILENT_PEAK)
    odd = {
        "silent": (is_silent(levels), f"peak below {silence_dbfs:.0f} dBFS: there is nothing to learn from"),
        "clipped": (
            clipped,
            f"more than {_CLIPPED_SHARE:.1%} of the samples at full scale: recorded too loud",
        ),
        "DC offset": (
            _has_dc_offset(levels),
            f"mean beyond {_DC_OFFSET:.0%} of full scale: a fault of the recorder",
        ),
        "short": (short, f"less than {clip_seconds:g} s: padded with zeros at the end"),
    }
    return [Finding(name, tuple(filenames[clips]), meaning) for name, (clips, meaning) in odd.items()]


def _scenes_of_few_locations(table: pd.DataFrame) -> Finding:
    learning = table[table["split"] != TEST]
    counts = (
        learning.groupby("scene")["location"].nunique().reindex(sorted(table["scene"].unique()), fill_value=0)
    )
    few = counts[counts < _LOCATIONS_TO_CUT]
    return Finding(
        "scenes that cannot be cut",
        tuple(f"{scene} ({count} location{'' if count == 1 else 's'})" for scene, count in few.items()),
        f"fewer than {_LOCATIONS_TO_CUT} locations for training: no validation clips can be cut out of them "
        "by location",
    )


def _tested_locations(table: pd.DataFrame) -> Finding:
    """Validation counts as training here: it decides which epoch's model is tested."""
    known = table[table["location"] != ""]
    clips = pd.crosstab(known["location"], known["split"] == TEST).reindex(
        columns=[False, True], fill_value=0
    )
    shared = clips[(clips > 0).all(axis=1)]
    return Finding(
        "locations in training and test",
        tuple(
            f"{location} ({learning} in training, {tested} in test)"
            for location, learning, tested in shared.itertuples()
        ),
        "the test hears places that were trained on: its scores come out too good",
    )
