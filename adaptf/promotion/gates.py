"""Gates of a promotion: why a version may not go into production."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptf.audio.logmel import LogMel
from adaptf.compression.agreement import REFERENCE_SUFFIX
from adaptf.compression.complexity import MAX_BYTES, MAX_MACS
from adaptf.compression.runtime import NETWORK_FILES
from adaptf.data.clips import UNKNOWN
from adaptf.errors import UserError
from adaptf.files import sha256_of
from adaptf.pipeline.artifacts import figure_tag
from adaptf.promotion.comparison import Comparison, compare_versions, corrected
from adaptf.promotion.self_test import routing_problems
from adaptf.promotion.shadowed import ShadowGate, shadowed
from adaptf.serving import logged_model
from adaptf.serving.bundle import MANIFEST, Bundle
from adaptf.serving.log_lines import LOGGER
from adaptf.tracking import production, registry
from adaptf.tracking.registry import tags_of
from adaptf.tracking.stage_run import StageRun

_LOSS_TAG, _STANDING_LOSS_TAG = figure_tag("relative loss"), figure_tag("standing loss")
"""In percent: as found, and what stands of it over places, which decides;
versions of before lack the latter."""
_LOGIT_ERROR_TAG = figure_tag("logit error")
"""Relative to the logits' spread; versions of before lack it."""
_SERVED = {
    figure_tag("served macs"): (MAX_MACS, "MACs in its file"),
    figure_tag("served bytes"): (MAX_BYTES, "bytes in its file"),
}
"""Counted in the file that answers; versions that were registered before lack them."""
_BUDGET = {figure_tag("macs"): (MAX_MACS, "MACs"), figure_tag("model_bytes"): (MAX_BYTES, "bytes")}
_INT8_TAG = figure_tag("INT8 convolutions")
"""Such as 46/46."""


@dataclass(frozen=True)
class Verdict:
    """What the gates say of all versions that are to be promoted together."""

    refusals: list[str]
    """These hold whatever is forced."""
    objections: list[str]
    """These can be overridden, with a reason."""
    comparisons: list[Comparison]
    shadowed: list[str]
    """How often versions agreed with production beside which they answered, where that is asked for."""
    seen: Mapping[str, str | None]
    """What was in production: registered model -> version, of all models that the gates looked at."""


def judge(
    wanted: Mapping[str, str],
    run: StageRun,
    *,
    tolerable_loss: float,
    tolerable_logit_error: float,
    shadow: ShadowGate,
) -> Verdict:
    """All gates of all versions, given by registered model. `tolerable_loss` is a fraction of the accuracy,
    and `tolerable_logit_error` one of the logits' spread."""
    seen = seen_in_production(wanted)
    if absent := [
        _no_version(name, version) for name, version in wanted.items() if tags_of(name, version) is None
    ]:
        return Verdict(absent, [], [], [], seen)
    refusals = [
        problem for name, version in wanted.items() for problem in routing_refusals(name, version, run)
    ]
    refusals += misfits(wanted, seen, run)
    if registry.ROUTER_NAME in wanted:
        refusals += strange_files(wanted[registry.ROUTER_NAME], run)
    # A device's version may be there twice: alone, and in the router.
    models = list(
        dict.fromkeys(
            model for name, version in wanted.items() for model in models_of(name, version, seen[name], run)
        )
    )
    objections = []
    for name, version, _ in models:
        tags = tags_of(name, version)
        if tags is None:
            refusals.append(f"the router holds {name} version {version}, which is not registered any more")
            continue
        refusals += [
            f"{name} version {version}: {problem}"
            for problem in (*_budget_problems(tags), *_int8_problems(tags))
        ]
        lost = _loss_problems(tags, tolerable_loss, tolerable_logit_error)
        objections += [f"{name} version {version}: {problem}" for problem in lost]
    comparisons = corrected(
        [compare_versions(name, version, former, run) for name, version, former in models]
    )
    objections += [str(found) for found in comparisons if found.is_worse or found.problem]
    found, too_little = shadowed(shadow, dict.fromkeys((name, version) for name, version, _ in models))
    return Verdict(refusals, objections + too_little, comparisons, found, seen)


def seen_in_production(wanted: Mapping[str, str]) -> dict[str, str | None]:
    """The versions in production of the models that are to be moved, and of the router,
    which they have to fit."""
    return {name: production.production_or_none(name) for name in (*wanted, registry.ROUTER_NAME)}


def _budget_problems(tags: Mapping[str, str]) -> list[str]:
    """What of the challenge's limits a version's figures break."""
    held = _BUDGET | {tag: limit for tag, limit in _SERVED.items() if tag in tags}
    return [problem for tag, (limit, unit) in held.items() for problem in _over_limit(tags, tag, limit, unit)]


def _int8_problems(tags: Mapping[str, str]) -> list[str]:
    """Whether a convolution was left as it was."""
    if _INT8_TAG not in tags:
        return [_no_tag(_INT8_TAG)]
    int8, _, convolutions = tags[_INT8_TAG].partition("/")
    if not (int8.isdecimal() and convolutions.isdecimal() and int(convolutions)):
        return [f"the tag {_INT8_TAG} is {tags[_INT8_TAG]!r}, it should be such as '46/46'"]
    if int(int8) != int(convolutions):
        return [f"{int8} of {convolutions} convolutions are INT8, all of them should be"]
    return []


def _no_tag(tag: str) -> str:
    """What is to be said of a figure that is missing."""
    return f"there is no tag {tag}: the version was not registered by `register`"


def _loss_problems(tags: Mapping[str, str], tolerable_loss: float, tolerable_logit_error: float) -> list[str]:
    """Whether quantization took too much of the accuracy, or changed the logits too much."""
    tag = _STANDING_LOSS_TAG if _STANDING_LOSS_TAG in tags else _LOSS_TAG
    problems = list(_over_limit(tags, tag, 100 * tolerable_loss, "percent relative loss by quantization"))
    if _LOGIT_ERROR_TAG in tags:
        problems += _over_limit(
            tags, _LOGIT_ERROR_TAG, tolerable_logit_error, "of the logits' spread between INT8 and float"
        )
    return problems


def _over_limit(tags: Mapping[str, str], tag: str, limit: float, unit: str) -> Iterator[str]:
    """A figure that is not known is no better than one over its limit."""
    if tag not in tags:
        yield _no_tag(tag)
        return
    try:
        figure = float(tags[tag])
    except ValueError:
        figure = math.nan
    if math.isnan(figure):
        yield f"the tag {tag} is {tags[tag]!r}, it should be the number of {unit}"
    elif figure > limit:
        yield f"{_shown(figure)} {unit}, at most {_shown(limit)} are allowed"


def _shown(figure: float) -> str:
    """Whole numbers whole, others with four digits."""
    return f"{figure:,.0f}" if figure == round(figure) else f"{figure:,.4g}"


def routing_refusals(name: str, version: str, run: StageRun) -> list[str]:
    """What the self-test of a version's bundle finds."""
    # Its requests are nobody's: their lines would be taken for those of users.
    was, LOGGER.disabled = LOGGER.disabled, True
    try:
        problems = routing_problems(_bundle_of(name, version, run))
    except UserError as error:
        problems = [str(error)]
    finally:
        LOGGER.disabled = was
    return [f"{name} version {version} fails the routing self-test: {problem}" for problem in problems]


def misfits(wanted: Mapping[str, str], seen: Mapping[str, str | None], run: StageRun) -> list[str]:
    """Versions of devices that a live router would never take up: those unlike the router that is moved with
    them, or that in production. Without a router any will do."""
    router = wanted.get(registry.ROUTER_NAME) or seen[registry.ROUTER_NAME]
    devices = {name: version for name, version in wanted.items() if name != registry.ROUTER_NAME}
    if router is None or not devices:
        return []
    try:
        there = _input_and_output(registry.ROUTER_NAME, router, run)
        here = {name: _input_and_output(name, version, run) for name, version in devices.items()}
    except UserError as error:
        return [
            f"whether {', '.join(devices)} can stand in {registry.ROUTER_NAME} version {router} is not "
            f"known: {error}"
        ]
    return [
        f"{name} version {devices[name]} can't stand in {registry.ROUTER_NAME} version {router}: its {key} "
        f"is {value!r}, there it is {there[key]!r}; move the two together, with -P device=all"
        for name, values in here.items()
        for key, value in values.items()
        if value != there[key]
    ]


def _input_and_output(name: str, version: str, run: StageRun) -> dict[str, Any]:
    """What the networks of a version share with those that they stand among, by its manifest.
    Raises UserError."""
    try:
        values = _manifest_of(name, version, run) | {"models": {}}
        return Bundle(log_mel=LogMel(**values.pop("mel")), **values).input_and_output()
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{name} version {version} has no complete {MANIFEST}: {error}") from error


def strange_files(router: str, run: StageRun) -> list[str]:
    """Networks of a router that are not those of the registered versions that they are said to be."""
    return [
        f"{registry.ROUTER_NAME} version {router}: {problem}"
        for entry in _entries_of(router, run).values()
        for problem in _strange_forms(router, entry["file"], *_name_and_number(entry), run)
    ]


def _strange_forms(router: str, file: str, name: str, version: str, run: StageRun) -> list[str]:
    """What of a network's files is not as in the registered version:
    of its OpenVINO form only where both have one."""
    if tags_of(name, version) is None:
        return []  # `judge` says it
    try:
        here, there = (
            _bundle_of(registry.ROUTER_NAME, router, run) / file,
            _bundle_of(name, version, run) / f"{UNKNOWN}.pt2",
        )
        pairs = [(here.with_suffix(form), there.with_suffix(form)) for form in NETWORK_FILES]
        held = [(one, other) for one, other in pairs if _is_due(one, other)]
        strange = [one.name for one, other in held if not one.is_file() or sha256_of(one) != sha256_of(other)]
    except (OSError, ValueError) as error:
        return [f"whether {file} is the file of {name} version {version} is not known: {error}"]
    return [f"{form} is not the file of {name} version {version}, which it is said to be" for form in strange]


def _is_due(here: Path, there: Path) -> bool:
    """Whether a router has to have a file as the version has it:
    the network, and the clips to try it with."""
    return here.suffix == ".pt2" or (there.exists() and (here.exists() or here.suffix == REFERENCE_SUFFIX))


def _bundle_of(name: str, version: str, run: StageRun) -> Path:
    """The folder of a version's bundle, downloaded once. Raises UserError where there is none."""
    folder = run.folder / f"{name}-{version}"
    there = next(folder.rglob(MANIFEST), None)
    return there.parent if there else logged_model.download_bundle(name, version, folder)


def _manifest_of(name: str, version: str, run: StageRun) -> dict[str, Any]:
    """What a version's bundle says of itself. Raises UserError where it can't be read."""
    try:
        return dict(json.loads((_bundle_of(name, version, run) / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{name} version {version} has no {MANIFEST} that can be read: {error}") from error


def models_of(
    name: str, version: str, former: str | None, run: StageRun
) -> list[tuple[str, str, str | None]]:
    """Device models that a version stands for: name, version, and the version in production. A router stands
    for those in it, beside those in the router that is in production."""
    if name != registry.ROUTER_NAME:
        return [(name, version, former)]
    held_now = versions_held(former, run) if former else {}
    return [(model, number, held_now.get(model)) for model, number in versions_held(version, run).items()]


def versions_held(router: str, run: StageRun) -> dict[str, str]:
    """Registered model -> version of a router's bundle;
    empty where it can't be read, which the self-test says."""
    return dict(_name_and_number(entry) for entry in _entries_of(router, run).values())


def _entries_of(router: str, run: StageRun) -> dict[str, dict[str, str]]:
    """By device `file` and `version` of a router's networks;
    empty where they can't be read, which the self-test says."""
    try:
        manifest = _manifest_of(registry.ROUTER_NAME, router, run)
        return {
            device: {key: str(entry[key]) for key in ("file", "version")}
            for device, entry in manifest["models"].items()
        }
    except (UserError, KeyError, TypeError, AttributeError):
        return {}


def _name_and_number(entry: Mapping[str, str]) -> tuple[str, str]:
    """Registered model and version of a network in a router."""
    name, _, number = entry["version"].rpartition("/")
    return name, number


def _no_version(name: str, version: str) -> str:
    """What is to be said of a version that does not exist."""
    there = ", ".join(sorted(production.versions_by_number(name), key=int)) or "none"
    return f"{name} has no version {version} (versions: {there})"
