"""Versions of a device's model compared:
on the validation clips that both were judged on, which neither has learnt from.

What a device's model is worth shows on clips of its device. They decide where they are enough, and those of
all devices where they are not;
a scene that was recorded at one place only decides nothing, as whoever is better there may be so by chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from adaptf.data.clips import UNKNOWN
from adaptf.data.parquet import read_table
from adaptf.errors import UserError
from adaptf.evaluation.bootstrap import SIGNIFICANT, Difference, paired_bootstrap
from adaptf.evaluation.changes import holm
from adaptf.evaluation.scores import TEXT_COLUMNS, places_of
from adaptf.names import stored
from adaptf.pipeline.artifacts import DEVICE_TAG, QUANTIZE_RUN, VALIDATION_PREDICTIONS
from adaptf.pipeline.refit import refits_of
from adaptf.pipeline.validation import ENOUGH_CLIPS
from adaptf.tracking.registry import tags_of
from adaptf.tracking.runs import UpstreamError
from adaptf.tracking.stage_run import StageRun

_MIN_COMMON_CLIPS = 20
_MIN_OWN_PLACES = 10
"""Of a device: fewer clips or places are no measure of its model."""


@dataclass(frozen=True)
class _Judged:
    """The clips that decide, of those that both versions were judged on."""

    filenames: frozenset[str]
    of: str
    """Whose they are, such as 'of c' or 'of all devices (only 40 are of c)'."""
    absent: tuple[str, ...]
    """Scenes of which there is none."""
    of_one_place: tuple[str, ...]
    """Scenes that are left out because they were recorded at one place."""

    def __str__(self) -> str:
        remarks = [f"none of {', '.join(self.absent)}"] if self.absent else []
        remarks += [f"{', '.join(self.of_one_place)} left out, as of one place"] if self.of_one_place else []
        return f"{len(self.filenames)} validation clips of both, {self.of}" + "".join(
            f"; {remark}" for remark in remarks
        )


@dataclass(frozen=True)
class Comparison:
    """A version of a device's model against the one in production,
    on the validation clips that both were judged on."""

    name: str
    version: str
    former: str | None
    """None: there is nothing to compare with."""
    judged: _Judged | None = None
    difference: Difference | None = None
    """What the version has over the former one; None where it is not known."""
    p: float = math.nan
    """That of the difference, corrected for the number of models that are compared together."""
    problem: str = ""
    """Why they can't be compared."""

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval over locations lies below zero,
        and this is no chance among so many models."""
        return self.difference is not None and self.difference.high < 0 and self.p <= SIGNIFICANT

    def __str__(self) -> str:
        this, former = f"{self.name} version {self.version}", f"version {self.former}, which is in production"
        if self.former is None:
            return f"{this}: nothing is in production that it could be compared with"
        if self.former == self.version:
            return f"{this} is in production already"
        if self.difference is None:
            return f"{this} can't be compared with {former}: {self.problem}"
        return (
            f"{this} {'is worse than' if self.is_worse else 'against'} {former}: "
            f"{_in_points(self.difference)} on the {self.judged} ({self.difference.locations} places, p "
            f"{self.p:.2g})"
        )


def compare_versions(name: str, version: str, former: str | None, run: StageRun) -> Comparison:
    """On the validation clips that both versions' runs of `quantize` were judged on:
    neither has learnt from those."""
    if former in (None, version):
        return Comparison(name, version, former)
    try:
        before, after = (validation_predictions(name, str(number), run) for number in (former, version))
        judged, difference = compare_predictions(
            before, after, (tags_of(name, version) or {}).get(DEVICE_TAG, UNKNOWN)
        )
    except UserError as error:
        return Comparison(name, version, former, problem=str(error))
    return Comparison(name, version, former, judged, difference, difference.p)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """With p corrected for their number (Holm, 1979):
    of seven models one looks worse by chance more often than one alone."""
    return [
        replace(found, p=p)
        for found, p in zip(comparisons, holm([found.p for found in comparisons]), strict=True)
    ]


def compare_predictions(before: pd.DataFrame, after: pd.DataFrame, device: str) -> tuple[_Judged, Difference]:
    """The clips that decide, and the difference on these. Raises UserError where they are too few for an
    interval, or the scenes are not the same."""
    keys = ["filename", "scene"]
    common = before.drop(columns="predicted").merge(after[keys])
    former_scenes, scenes = (sorted(set(table.columns) - set(TEXT_COLUMNS)) for table in (before, after))
    if former_scenes != scenes:
        raise UserError(
            f"it tells {', '.join(scenes)} apart, the other one {', '.join(former_scenes)}: these are "
            "different tasks"
        )
    if len(common) < _MIN_COMMON_CLIPS:
        raise UserError(
            f"both were judged on {len(common)} clips, at least {_MIN_COMMON_CLIPS} are needed: "
            "quantize on the same validation clips"
        )
    judged = _clips_that_decide(common, device, scenes)
    if not judged.filenames:
        raise UserError(
            f"the {len(common)} clips of both are of one place per scene, which gives no interval"
        )
    shown = [table[table["filename"].isin(judged.filenames)] for table in (before, after)]
    return judged, paired_bootstrap(shown[:1], shown[1:])


def _clips_that_decide(common: pd.DataFrame, device: str, scenes: Sequence[str]) -> _Judged:
    """Of the clips that both were judged on those of the device where they are enough,
    else those of all devices."""
    own = common[common["device"] == device]
    usable = _of_several_places(own)
    if len(usable) >= ENOUGH_CLIPS and places_of(usable).nunique() >= _MIN_OWN_PLACES:
        shown, of = own, f"of {device}"
    elif device != UNKNOWN and len(own) == len(common) and len(usable):
        raise UserError(
            f"both were judged on clips of {device} alone, of which {len(usable)} can decide: too few. "
            f"Versions that are quantized anew are judged on the clips of all devices"
        )
    else:
        shown, of = (
            common,
            "of all devices" + f" (only {len(usable)} usable ones are of {device})" * (device != UNKNOWN),
        )
        usable = _of_several_places(common)
    there, kept = set(shown["scene"]), set(usable["scene"])
    absent = tuple(scene for scene in scenes if scene not in there)
    return _Judged(frozenset(usable["filename"]), of, absent, tuple(sorted(there - kept)))


def _of_several_places(clips: pd.DataFrame) -> pd.DataFrame:
    """Without the scenes that were recorded at one place."""
    places = places_of(clips).groupby(clips["scene"]).nunique()
    return clips[clips["scene"].map(places) > 1]


def validation_predictions(name: str, version: str, run: StageRun) -> pd.DataFrame:
    """A version's predictions of the clips that it was judged on.
    Raises UpstreamError where they are not known."""
    tags = tags_of(name, version) or {}
    if not {DEVICE_TAG, QUANTIZE_RUN} <= tags.keys():
        raise UpstreamError(
            f"version {version} has no tags {DEVICE_TAG} and {QUANTIZE_RUN} that say how it was judged"
        )
    if refits := refits_of(tags[QUANTIZE_RUN], tags[DEVICE_TAG]):
        raise UpstreamError(
            f"version {version} has learnt from the validation clips (refit of {', '.join(refits)}), on "
            f"which nothing can be said of it: compare the two on test clips (stage compare)"
        )
    return read_table(
        run.download(tags[QUANTIZE_RUN], VALIDATION_PREDICTIONS) / f"{stored(tags[DEVICE_TAG])}.parquet"
    )


def _in_points(difference: Difference) -> str:
    """A difference with its interval over locations, as text."""
    mean, low, high = (f"{100 * value:+z.2f}" for value in (difference.mean, difference.low, difference.high))
    return f"{mean} points of macro-average accuracy (95 % interval {low} to {high})"


def comparison_table(comparisons: list[Comparison]) -> pd.DataFrame:
    """A row per comparison, in points; empty cells where there is no difference to tell."""
    rows = [
        {"model": found.name, "version": found.version, "in production": found.former}
        | {
            "clips": len(found.judged.filenames) if found.judged else 0,
            "of": found.judged.of if found.judged else "",
        }
        | {"scenes without clips": ", ".join(found.judged.absent) if found.judged else ""}
        | {"scenes of one place": ", ".join(found.judged.of_one_place) if found.judged else ""}
        | {
            name: 100 * getattr(found.difference, name) if found.difference else None
            for name in ("mean", "low", "high")
        }
        | {"p": found.p, "words": str(found)}
        for found in comparisons
    ]
    return pd.DataFrame(rows).rename(columns={"mean": "difference"})
