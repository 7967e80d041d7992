"""What a sweep searches: a small YAML file of fields with ranges or choices, checked against a stage."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from adaptf.data.errors import raise_problems
from adaptf.errors import UserError
from adaptf.paths import user_file_or_name
from adaptf.pipeline.config import settings, upstream_fields
from adaptf.pipeline.run_names import SHORT_NAMES
from adaptf.training.device_probability import devices_in

SPACES = Path(__file__).parents[1] / "mlproject" / "spaces"
_RANGE = ("low", "high", "log", "step")
_KEYS = (*_RANGE, "choices")
NOT_SEARCHED = ("seed", "seeds", "trainer")
"""Fields and sections that say how and where a stage runs, not what it learns from."""
DIR_OF = "augment.dir_p_of."
"""Begin of the fields that hold the probability of an impulse response of some devices."""
_LABELS = {field: name for name, field in SHORT_NAMES.items()} | {
    "augment.mixstyle_p": "MixStyle p",
    "augment.mixstyle_alpha": "MixStyle alpha",
    "augment.mixup_alpha": "mixup alpha",
    "unknown_dir_p": "DIR unknown",
}
_Config = TypeVar("_Config")
Space = Mapping[str, BaseDistribution]
"""Dotted field of the stage's settings -> what it may be."""


def read_space(value: str, stage: str, config: Any) -> Space:
    """A shipped space by its name (`default`: that of the stage) or one in a file, checked against the
    stage's settings.

    Raises UserError where there is none, and DataError that lists everything that is wrong with it.
    """
    path = space_path(value, stage)
    if not os.path.isfile(path):
        names = ", ".join(sorted(found.stem for found in SPACES.glob("[!.]*.yaml")))
        raise UserError(f"sweep.space '{value}' is neither one of default, {names} nor a file")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"sweep.space {path} is not readable as YAML: {error}") from error
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"sweep.space {path} should hold fields such as 'loss.weight: {{low: 0.01, high: 0.5}}', not "
            f"{content!r}"
        )
    return space_of(content, config, name=str(path))


def space_path(value: str, stage: str) -> Path:
    """Of a shipped space, or of the file that a user names."""
    shipped = SPACES / f"{stage if value == 'default' else value}.yaml"
    return shipped if os.path.isfile(shipped) else Path(user_file_or_name(value, what="sweep.space"))


def space_of(content: Mapping[str, Any], config: Any, *, name: str) -> Space:
    """From the content of a file. Raises DataError that lists all its problems."""
    space: dict[str, BaseDistribution] = {}
    problems = []
    known = _leaf_types(config)
    for field, entry in _entries(content):
        try:
            space[field] = _distribution(entry, _type(field, known))
        except ValueError as error:
            problems.append(f"{field}: {error}")
    raise_problems(problems, of=f"the space {name}")
    return space


def _entries(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted fields with what is said of them; sections may be nested, as those of devices are."""
    for name, value in content.items():
        if isinstance(value, dict) and value and not set(value) & set(_KEYS):
            yield from _entries(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _leaf_types(config: Any) -> dict[str, Any]:
    """The types of all fields that may be searched, by dotted names."""
    bookkeeping = {field.name for field in upstream_fields(config)} | set(NOT_SEARCHED)
    hints = get_type_hints(type(config))
    found: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in bookkeeping:
            continue
        if is_dataclass(value):
            found |= {f"{field.name}.{name}": hint for name, hint in _leaf_types(value).items()}
        else:
            found[field.name] = hints[field.name]
    return found


def _type(field: str, known: Mapping[str, Any]) -> Any:
    """Of a field, or of an entry in a field that is a mapping. Raises ValueError with the nearest ones."""
    parent = field.rpartition(".")[0]
    if field in known:
        return known[field]
    if get_origin(known.get(parent)) is dict:
        return get_args(known[parent])[1]
    last = field.rpartition(".")[2]
    alike = [name for name in known if name.rpartition(".")[2] == last] or get_close_matches(
        field, known, n=3, cutoff=0.4
    )
    raise ValueError(
        f"there is no such field to search{', the nearest are ' + ', '.join(alike) if alike else ''}"
    )


def _distribution(entry: Any, kind: Any) -> BaseDistribution:
    """What an entry of the file allows a field of this type. Raises ValueError with what would be right."""
    if not isinstance(entry, dict) or not entry:
        raise ValueError(f"should hold low and high, or choices, got {entry!r}")
    if unknown := sorted(set(entry) - set(_KEYS)):
        raise ValueError(f"'{unknown[0]}' is none of {', '.join(_KEYS)}")
    if get_origin(kind) in (tuple, dict):
        raise ValueError("holds several values; only a single number, word or switch can be searched")
    if "choices" in entry:
        if len(entry) > 1:
            raise ValueError("has choices and a range: leave one of them")
        return _choices(entry["choices"], kind)
    if kind not in (int, float):
        raise ValueError(f"is {_name(kind)}, no number: give choices instead of a range")
    return _range(entry, kind)


def _choices(values: Any, kind: Any) -> CategoricalDistribution:
    """Several values of the field's type."""
    if not isinstance(values, list) or len(values) < 2:
        raise ValueError(f"choices should be a list of two values and more, got {values!r}")
    checked = [_number(value, kind, "a choice") if kind in (int, float) else value for value in values]
    allowed = get_args(kind) if get_origin(kind) is Literal else None
    for value in checked:
        if not (value in allowed if allowed else type(value) is kind):
            raise ValueError(f"is {_name(kind)}, which {value!r} is not")
    if len(set(checked)) < len(checked):
        raise ValueError(f"has a choice twice: {values}")
    return CategoricalDistribution(checked)


def _range(entry: Mapping[str, Any], kind: type) -> BaseDistribution:
    """Numbers between two others; Optuna says what is wrong with them."""
    if missing := [name for name in ("low", "high") if name not in entry]:
        raise ValueError(f"has no {' and no '.join(missing)}")
    if not isinstance(log := entry.get("log", False), bool):
        raise ValueError(f"log should be true or false, got {log!r}")
    numbers: dict[str, Any] = {
        name: _number(entry[name], kind, name) for name in ("low", "high", "step") if name in entry
    }
    return IntDistribution(**numbers, log=log) if kind is int else FloatDistribution(**numbers, log=log)


def _number(value: Any, kind: type, name: str) -> float:
    """YAML reads 1e-3 as a word. Raises ValueError for what is no number of this type."""
    try:
        number = kind(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if (
        isinstance(number, bool)
        or not isinstance(number, (int, float))
        or (kind is int and not isinstance(number, int))
    ):
        raise ValueError(f"{name} should be {_name(kind)}, got {value!r}")
    return kind(number)


def _name(kind: Any) -> str:
    """What a type is called in a message."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}.get(
        kind, str(kind)
    )


def suggested(trial: Trial, space: Space) -> dict[str, Any]:
    """The trial's value of each field, in the order of the space."""
    return {field: _rounded(_suggest(trial, field, distribution)) for field, distribution in space.items()}


def _suggest(trial: Trial, field: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(field, distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    suggest: Any = trial.suggest_float if isinstance(distribution, FloatDistribution) else trial.suggest_int
    return suggest(field, distribution.low, distribution.high, log=distribution.log, step=distribution.step)


def _rounded(value: Any) -> Any:
    """A grid's third step of 0.1 is 0.30000000000000004 for a computer."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def with_values(config: _Config, values: Mapping[str, Any]) -> _Config:
    """The settings with other values in these dotted fields."""
    changes: dict[str, Any] = {}
    for field, value in values.items():
        head, _, rest = field.partition(".")
        current = changes.get(head, getattr(config, head))
        if is_dataclass(current):
            changes[head] = with_values(current, {rest: value})
        else:
            changes[head] = {**current, rest: value} if rest else value
    return replace(config, **changes)  # type: ignore[type-var]


def values_in(space: Space, config: Any) -> dict[str, Any]:
    """What the settings hold in the fields of the space; empty where one of them lies outside of it."""
    flat = settings(config)
    values = {field: flat.get(field, _of_group(field, flat)) for field in space}
    inside = (value is not None and _contains(space[field], value) for field, value in values.items())
    return values if all(inside) else {}


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value lies in a range, on its grid, or is one of the choices."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    steps = (value - distribution.low) / (distribution.step or 1)
    on_grid = distribution.step is None or abs(steps - round(steps)) < 1e-6
    return bool(distribution.low <= value <= distribution.high and on_grid)


def _of_group(field: str, flat: Mapping[str, Any]) -> float | None:
    """The probability that a group of devices has, where it is the same for all of them."""
    if not field.startswith(DIR_OF):
        return None
    chosen = flat["augment.dir_devices"]
    group = field.removeprefix(DIR_OF)
    if group in flat["augment.dir_p_of"]:
        return float(flat["augment.dir_p_of"][group])
    found = {flat["augment.dir_p"] if not chosen or device in chosen else 0.0 for device in devices_in(group)}
    return found.pop() if len(found) == 1 else None


def label(field: str) -> str:
    """What names of runs and pictures call a field."""
    if field.startswith(DIR_OF):
        return f"DIR {field.removeprefix(DIR_OF)}"
    return _LABELS.get(field, field.rpartition(".")[2])


def words(values: Mapping[str, Any]) -> str:
    """As in `T=1.7 w=0.031 DIR=0.2`."""
    shown = {
        name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in values.items()
    }
    return " ".join(f"{label(name)}={value}" for name, value in shown.items())
