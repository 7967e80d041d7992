"""Versions of a device's model compared: on the validation clips that both were judged on, which neither has learnt from."""

import math
from dataclasses import dataclass

import pandas as pd

from adaptf.errors import UserError
from adaptf.evaluation.bootstrap import Difference, paired_bootstrap
from adaptf.evaluation.scores import TEXT_COLUMNS, read_prediction_table
from adaptf.mlproject.quantize import VALIDATION_PREDICTIONS
from adaptf.mlproject.refit import refits_of
from adaptf.mlproject.register import DEVICE_TAG, QUANTIZE_TAG
from adaptf.tracking.registry import tags_of
from adaptf.tracking.runs import StageRun, UpstreamError

MIN_COMMON_CLIPS = 20


@dataclass(frozen=True)
class Comparison:
    """A version of a device's model against the one in production, on the validation clips that both were judged on."""

    name: str
    version: str
    former: str | None
    """None: there is nothing to compare with."""
    clips: int = 0
    difference: Difference | None = None
    """What the version has over the former one; None where it is not known."""
    problem: str = ""
    """Why they can't be compared."""

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval over locations lies below zero."""
        return self.difference is not None and self.difference.high < 0

    def __str__(self) -> str:
        this, former = f"{self.name} version {self.version}", f"version {self.former}, which is in production"
        if self.former is None:
            return f"{this}: nothing is in production that it could be compared with"
        if self.former == self.version:
            return f"{this} is in production already"
        if self.difference is None:
            return f"{this} can't be compared with {former}: {self.problem}"
        return (
            f"{this} {'is worse than' if self.is_worse else 'against'} {former}: {in_points(self.difference)} "
            f"on the {self.clips} validation clips of both, of {self.difference.locations} places"
        )


def compare_versions(name: str, version: str, former: str | None, run: StageRun) -> Comparison:
    """On the validation clips that both versions' runs of `quantize` were judged on: neither has learnt from those."""
    if former in (None, version):
        return Comparison(name, version, former)
    try:
        before, after = (validation_predictions(name, str(number), run) for number in (former, version))
        clips, difference = compare(before, after)
    except UserError as error:
        return Comparison(name, version, former, problem=str(error))
    return Comparison(name, version, former, clips, difference)


def compare(before: pd.DataFrame, after: pd.DataFrame) -> tuple[int, Difference]:
    """Number of clips that are in both tables of predictions, and the difference on these. Raises UserError where they are too
    few for an interval, or the scenes are not the same."""
    keys = ["filename", "scene"]
    common = before[keys].merge(after[keys])
    former_scenes, scenes = (sorted(set(table.columns) - set(TEXT_COLUMNS)) for table in (before, after))
    if former_scenes != scenes:
        raise UserError(
            f"it tells {', '.join(scenes)} apart, the other one {', '.join(former_scenes)}: these are different tasks"
        )
    if absent := [scene for scene in scenes if scene not in set(common["scene"])]:
        raise UserError(
            f"both were judged on {len(common)} clips, and of {', '.join(absent)} there is none among them: "
            "quantize on the same validation clips"
        )
    if len(common) < MIN_COMMON_CLIPS:
        raise UserError(
            f"both were judged on {len(common)} clips, at least {MIN_COMMON_CLIPS} are needed: "
            "quantize on the same validation clips"
        )
    difference = paired_bootstrap([before.merge(common)], [after.merge(common)])
    if math.isnan(difference.high):
        raise UserError(f"the {len(common)} clips of both are of one place per scene, which gives no interval")
    return len(common), difference


def validation_predictions(name: str, version: str, run: StageRun) -> pd.DataFrame:
    """A version's predictions of the clips that it was judged on. Raises UpstreamError where they are not known."""
    tags = tags_of(name, version) or {}
    if not {DEVICE_TAG, QUANTIZE_TAG} <= tags.keys():
        raise UpstreamError(f"version {version} has no tags {DEVICE_TAG} and {QUANTIZE_TAG} that say how it was judged")
    if refits := refits_of(tags[QUANTIZE_TAG], tags[DEVICE_TAG]):
        raise UpstreamError(
            f"version {version} has learnt from the validation clips (refit of {', '.join(refits)}), on which nothing can be "
            "said of it: compare the two on test clips (stage compare)"
        )
    return read_prediction_table(run.download(tags[QUANTIZE_TAG], f"{VALIDATION_PREDICTIONS}/{tags[DEVICE_TAG]}.csv"))


def in_points(difference: Difference) -> str:
    """A difference with its interval over locations, as text."""
    mean, low, high = (f"{100 * value:+z.2f}" for value in (difference.mean, difference.low, difference.high))
    return f"{mean} points of macro-average accuracy (95 % interval {low} to {high})"


def table_of(comparisons: list[Comparison]) -> pd.DataFrame:
    """A row per comparison, in points; empty cells where there is no difference to tell."""
    rows = [
        {"model": found.name, "version": found.version, "in production": found.former, "clips": found.clips}
        | {name: 100 * getattr(found.difference, name) if found.difference else None for name in ("mean", "low", "high")}
        | {"words": str(found)}
        for found in comparisons
    ]
    return pd.DataFrame(rows).rename(columns={"mean": "difference"})
