"""Gates of a promotion: why a version may not go into production."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from adaptf.compression.complexity import MAX_BYTES, MAX_MACS
from adaptf.errors import UserError
from adaptf.evaluation.bootstrap import Difference, paired_bootstrap
from adaptf.mlproject.evaluate import read_prediction_table
from adaptf.mlproject.quantize import VALIDATION_PREDICTIONS
from adaptf.mlproject.register import DEVICE_TAG, QUANTIZE_TAG
from adaptf.tracking import production, registry
from adaptf.tracking.bundle import MANIFEST
from adaptf.tracking.log_lines import LOGGER
from adaptf.tracking.runs import StageRun, UpstreamError
from adaptf.tracking.self_test import routing_problems

LOSS_TAG = "adaptf.relative_loss"
"""In percent."""
BUDGET = {"adaptf.macs": (MAX_MACS, "MACs"), "adaptf.model_bytes": (MAX_BYTES, "bytes")}
MIN_COMMON_CLIPS = 20
TEXT_COLUMNS = ("filename", "scene", "device", "location", "predicted")


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


@dataclass(frozen=True)
class Verdict:
    """What the gates say of all versions that are to be promoted together."""

    refusals: list[str]
    """These hold whatever is forced."""
    objections: list[str]
    """These can be overridden, with a reason."""
    comparisons: list[Comparison]


def judge(wanted: Mapping[str, str], run: StageRun, *, tolerable_loss: float) -> Verdict:
    """All gates of all versions, given by registered model. `tolerable_loss` is a fraction of the accuracy."""
    if absent := [no_version(name, version) for name, version in wanted.items() if tags_of(name, version) is None]:
        return Verdict(absent, [], [])
    refusals = [problem for name, version in wanted.items() for problem in routing_refusals(name, version, run)]
    # A device's version may be there twice: alone, and in the router.
    models = list(dict.fromkeys(model for name, version in wanted.items() for model in models_of(name, version, run)))
    objections = []
    for name, version, _ in models:
        tags = tags_of(name, version)
        if tags is None:
            refusals.append(f"the router holds {name} version {version}, which is not registered any more")
            continue
        refusals += [f"{name} version {version}: {problem}" for problem in budget_problems(tags)]
        objections += [f"{name} version {version}: {problem}" for problem in loss_problems(tags, tolerable_loss)]
    comparisons = [compare_versions(name, version, former, run) for name, version, former in models]
    objections += [str(found) for found in comparisons if found.is_worse or found.problem]
    return Verdict(refusals, objections, comparisons)


def budget_problems(tags: Mapping[str, str]) -> list[str]:
    """What of the challenge's limits a version's figures break."""
    return [problem for tag, (limit, unit) in BUDGET.items() for problem in over_limit(tags, tag, limit, unit)]


def loss_problems(tags: Mapping[str, str], tolerable_loss: float) -> list[str]:
    """Whether quantization took too much of the accuracy."""
    return list(over_limit(tags, LOSS_TAG, 100 * tolerable_loss, "percent relative loss by quantization"))


def over_limit(tags: Mapping[str, str], tag: str, limit: float, unit: str) -> Iterator[str]:
    """A figure that is not known is no better than one over its limit."""
    if tag not in tags:
        yield f"there is no tag {tag}: the version was not registered by `register`"
        return
    try:
        figure = float(tags[tag])
    except ValueError:
        figure = math.nan
    if math.isnan(figure):
        yield f"the tag {tag} is {tags[tag]!r}, it should be the number of {unit}"
    elif figure > limit:
        yield f"{shown(figure)} {unit}, at most {shown(limit)} are allowed"


def shown(figure: float) -> str:
    """Whole numbers whole, others with four digits."""
    return f"{figure:,.0f}" if figure == round(figure) else f"{figure:,.4g}"


def routing_refusals(name: str, version: str, run: StageRun) -> list[str]:
    """What the self-test of a version's bundle finds."""
    # Its requests are nobody's: their lines would be taken for those of users.
    was, LOGGER.disabled = LOGGER.disabled, True
    try:
        problems = routing_problems(bundle_of(name, version, run))
    except UserError as error:
        problems = [str(error)]
    finally:
        LOGGER.disabled = was
    return [f"{name} version {version} fails the routing self-test: {problem}" for problem in problems]


def bundle_of(name: str, version: str, run: StageRun) -> Path:
    """The folder of a version's bundle. Raises UserError where there is none."""
    return registry.download_bundle(name, version, run.folder / f"{name}-{version}")


def models_of(name: str, version: str, run: StageRun) -> list[tuple[str, str, str | None]]:
    """Device models that a version stands for: name, version, and the version in production. A router stands for those in it,
    beside those in the router that is in production."""
    former = production.production_or_none(name)
    if name != registry.ROUTER_NAME:
        return [(name, version, former)]
    held_now = versions_held(name, former, run) if former else {}
    return [(model, number, held_now.get(model)) for model, number in versions_held(name, version, run).items()]


def versions_held(name: str, version: str, run: StageRun) -> dict[str, str]:
    """Registered model -> version of a router's bundle; empty where it can't be read, which the self-test says."""
    try:
        manifest = json.loads((bundle_of(name, version, run) / MANIFEST).read_text(encoding="utf-8"))
        held = [str(entry["version"]).rpartition("/") for entry in manifest["models"].values()]
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {model: number for model, _, number in held}


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
    few for an interval."""
    keys = ["filename", "scene"]
    common = before[keys].merge(after[keys])
    scenes = [column for column in after.columns if column not in TEXT_COLUMNS]
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
    return read_prediction_table(run.download(tags[QUANTIZE_TAG], f"{VALIDATION_PREDICTIONS}/{tags[DEVICE_TAG]}.csv"))


def tags_of(name: str, version: str) -> Mapping[str, str] | None:
    """A version's tags; None where there is no such version."""
    try:
        return dict(mlflow.MlflowClient().get_model_version(name, version).tags)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def no_version(name: str, version: str) -> str:
    """What is to be said of a version that does not exist."""
    there = ", ".join(sorted(production.versions_by_number(name), key=int)) or "none"
    return f"{name} has no version {version} (versions: {there})"


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
