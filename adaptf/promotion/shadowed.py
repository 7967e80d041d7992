"""Gate of a promotion that can be asked for: on how many clips a version answered beside production, unseen,
and how often it said the same scene, as the servers tell that did this."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

from adaptf.errors import UserError
from adaptf.serving.agreement import is_one_version
from adaptf.tracking import production
from adaptf.tracking.candidates import ALIAS
from adaptf.tracking.registry import BUNDLE_HASH, tags_of

_SECONDS = 30.0
"""For the page of one server."""
_MOST_CHANGES = 3
"""That a refusal names."""


@dataclass(frozen=True)
class ShadowGate:
    """What is asked of every version that would take another one's place."""

    servers: Sequence[str]
    """Addresses such as http://127.0.0.1:5001; none where nothing is asked."""
    clips: int
    agreement: float
    """From 0 to 1."""


@dataclass
class Shadowed:
    """What all servers together have seen of a version beside the one in production."""

    clips: int = 0
    agreed: int = 0
    errors: int = 0
    changed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Clips, by production's scene and the version's."""

    def __str__(self) -> str:
        share = f", with the same scene for {self.agreed / self.clips:.2%}" if self.clips else ""
        most = "".join(
            f"; {former} became {scene} {clips} times"
            for (former, scene), clips in self.changed.most_common(_MOST_CHANGES)
        )
        return f"shadowed for {self.clips:,} clips{share}, {self.errors:,} errors{most}"


def shadowed(gate: ShadowGate, models: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """What was found of versions, given with their registered models, as words; and what of that is too
    little, or not known.

    A version that is in production is not asked for, nor one that takes nobody's place.
    """
    if not gate.servers:
        return [], []
    found, problems, told = [], [], list[Mapping[str, Any]]()
    for server in gate.servers:
        try:
            told += page_of(server)
        except UserError as error:
            problems.append(str(error))
    for name, version in models:
        former = production.production_or_none(name)
        if former not in (None, version):
            together = _together(told, _known_as(name, version), _known_as(name, str(former)))
            words = f"{name} version {version} beside version {former}: {together}"
            found.append(words)
            problems += [f"{words}; {problem}" for problem in _problems(gate, together)]
    return found, problems


def page_of(server: str) -> list[Mapping[str, Any]]:
    """What a server tells of each version that it lets answer beside production. Raises UserError."""
    address = f"{server.rstrip('/')}/shadow"
    try:
        response = requests.get(address, timeout=_SECONDS)
        response.raise_for_status()
        return [_checked(entry) for entry in response.json()["devices"].values()]
    except (requests.RequestException, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{address} does not tell what was shadowed ({type(error).__name__}: {error}): shadow_servers "
            f"should be addresses of `serve`, such as http://127.0.0.1:5001"
        ) from error


def _checked(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises ValueError where it is none of ours."""
    texts = [entry[key] for key in ("version", "sha256", "production", "production_sha256")]
    numbers = [entry[key] for key in ("clips", "agreed", "errors")]
    numbers += [change["clips"] for change in entry["changed"]]
    if not all(isinstance(text, str) for text in texts) or any(type(number) is not int for number in numbers):
        raise ValueError("this is no page of it")
    return entry


def _known_as(name: str, version: str) -> tuple[str, str]:
    """A version and the hash of its bundle, as a server tells them."""
    return f"{name}/{version}", (tags_of(name, version) or {}).get(BUNDLE_HASH, "")


def _together(
    told: Iterable[Mapping[str, Any]], candidate: tuple[str, str], former: tuple[str, str]
) -> Shadowed:
    """The sum of what is told of these very versions."""
    together = Shadowed()
    for entry in told:
        here = (entry["version"], entry["sha256"]), (entry["production"], entry["production_sha256"])
        if is_one_version(here[0], candidate) and is_one_version(here[1], former):
            together.clips += entry["clips"]
            together.agreed += entry["agreed"]
            together.errors += entry["errors"]
            for change in entry["changed"]:
                together.changed[str(change["scene"]), str(change["shadow_scene"])] += change["clips"]
    return together


def _problems(gate: ShadowGate, together: Shadowed) -> Iterator[str]:
    if together.clips < gate.clips:
        hint = "" if together.clips else f" (has it the alias {ALIAS!r}?)"
        yield f"at least {gate.clips:,} clips are asked for{hint}"
    elif together.agreed < gate.agreement * together.clips:
        yield f"the same scene is asked for in at least {gate.agreement:.2%}"
