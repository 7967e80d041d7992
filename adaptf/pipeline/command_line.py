"""From a command line to a stage's configuration: defaults, then a preset, then the fields given."""

import argparse
import csv
import json
import os
import sys
import warnings
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings
from mlflow.artifacts import load_text
from mlflow.exceptions import MlflowException

from adaptf.errors import UserError
from adaptf.names import tidy
from adaptf.paths import user_file_or_name, user_path
from adaptf.pipeline.config import PRESET_SECTIONS, PRESET_VALUES, SHARED_SECTIONS, leaves, settings
from adaptf.tracking.runs import NONE
from adaptf.tracking.store import open_store

_STAGES = Path(__file__).parents[1] / "mlproject"
PRESETS = _STAGES / "presets"
_ARTIFACTS = ("runs:/", "mlflow-artifacts:/")
_Config = TypeVar("_Config")


def parse(config_class: type[_Config], *, stage: str, arguments: Sequence[str]) -> _Config:
    """A stage's configuration.
    Exits with a message where a word of the command line or of the preset is wrong."""
    parser, defaults = _parser(config_class, stage), config_class()
    try:
        preset, given = _spelled_out(arguments, defaults, parser)
        parsed = parser.parse_args([*_said_by(preset, stage, defaults), *given])
        for name, field, usual in leaves(defaults):
            if parsed[name] != usual:
                parsed[name] = _meant(parsed[name], field.metadata, name)
        parsed.pop("preset")
        return config_class(**vars(parser.instantiate(parsed)))
    except UserError as error:
        parser.error(str(error))


def _parser(config_class: type, stage: str) -> ArgumentParser:
    """Options for all fields; what stages share is given once."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    program = f"python -m adaptf.mlproject.{stage}"
    parser = ArgumentParser(
        prog=program,
        # all fields would bury an error's message
        usage=f"{program} [--preset NAME] [--SECTION.FIELD VALUE ...]",
        description=(config_class.__doc__ or "").strip(),
        allow_abbrev=False,
    )
    presets = f"{', '.join(preset_names())}, a YAML file, or runs:/<id>/best.yaml of a sweep"
    parser.add_argument("--preset", default="default", help=f"Differences to the defaults below: {presets}.")
    parser.add_class_arguments(config_class, as_group=False)
    for source, target in shared_leaves(config_class):
        parser.link_arguments(source, target)
    return parser


def shared_leaves(config_class: type) -> list[tuple[str, str]]:
    """What a configuration gives once for the stages in it: (`mel.bands`, `train.mel.bands`), ..."""
    names = settings(config_class())
    pairs = [(name.partition(".")[2], name) for name in names]
    return [
        (one, target) for one, target in pairs if one in names and one.partition(".")[0] in SHARED_SECTIONS
    ]


def _spelled_out(arguments: Sequence[str], defaults: Any, parser: ArgumentParser) -> tuple[str, list[str]]:
    """The preset, and the words for all else:
    `--download` as `--download=true`, `--seeds 0,1` as `--seeds=[0,1]`."""
    quiet: Any = {"add_help": False, "allow_abbrev": False, "argument_default": argparse.SUPPRESS}
    short = argparse.ArgumentParser(parser.prog, parser.usage, **quiet)
    short.add_argument("--preset", default=parser.get_default("preset"))
    for name, field, usual in leaves(defaults):
        if isinstance(usual, bool):
            short.add_argument(f"--{name}", nargs="?", const="true")
        elif field.type == tuple[str, ...]:
            short.add_argument(f"--{name}", type=_list_of_names)
        elif isinstance(usual, tuple):
            short.add_argument(f"--{name}", type=lambda text: text if text.startswith("[") else f"[{text}]")
    known, others = short.parse_known_args(arguments)
    preset = known.__dict__.pop("preset")
    return preset, [*others, *(f"--{name}={value}" for name, value in vars(known).items())]


def _list_of_names(text: str) -> str:
    """`1,no,O'Neil` as `["1", "no", "O'Neil"]`: names, whatever YAML takes them for."""
    return text if text.startswith("[") else json.dumps(next(csv.reader([text], skipinitialspace=True), []))


def _meant(value: Any, metadata: Mapping[str, Any], name: str) -> Any:
    """What a value given for a field stands for: an absolute path, a tidy name.
    Raises UserError for no possible path."""
    if "path" in metadata:
        return value if value == NONE else user_path(value, what=name)
    if "stage" in metadata or "file or name" in metadata:
        return user_file_or_name(value, what=name)
    if isinstance(value, tuple):
        return tuple(_meant(one, {}, name) for one in value)
    if isinstance(value, dict):
        return {tidy(key): one for key, one in value.items()}
    return tidy(value) if isinstance(value, str) else value


def preset_names() -> list[str]:
    """Presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("[!.]*.yaml"))


def _said_by(preset: str, stage: str, defaults: Any) -> list[str]:
    """What a preset says of a stage, as a command line would say it, so that it is checked alike.

    A preset has the shape of the configuration of `main`: sections of stages, and what stages share.
    """
    content, usual = read_preset(preset), settings(defaults)
    said = {name: value for name, value in content.items() if hasattr(defaults, name)}
    if stage not in said:
        said |= content.get(stage, {})
    flat = flatten(said, whole=usual)
    for name, value in flat.items():
        if inner := [leaf for leaf in usual if leaf.startswith(f"{name}.")]:
            example = f"{inner[0].removeprefix(f'{name}.')}: {usual[inner[0]]}"
            raise UserError(
                f"preset {preset}: {name} should hold settings such as '{example}', not {value!r}"
            )
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in flat.items()
    ]


def read_preset(preset: str) -> dict[str, Any]:
    """Content of a shipped preset, of a YAML file or of a run's artifact.
    Raises UserError for what is none."""
    try:
        content = yaml.safe_load(_preset_text(preset)) or {}
    except yaml.YAMLError as error:
        raise UserError(f"preset {preset} is not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"preset {preset} should hold sections such as 'distill:', not {content!r}, a "
            f"{type(content).__name__}"
        )
    known = [*PRESET_SECTIONS, *PRESET_VALUES, *sorted(path.stem for path in _STAGES.glob("[!_.]*.py"))]
    for name, value in content.items():
        if name not in known:
            raise UserError(f"preset {preset} has a section '{name}', there are {', '.join(known)}")
        if name not in PRESET_VALUES and not isinstance(value, dict):
            raise UserError(
                f"preset {preset}: section '{name}' should hold settings and their values, not {value!r}"
            )
    return content


def _preset_text(preset: str) -> str:
    shipped = PRESETS / f"{preset}.yaml"
    path = shipped if os.path.isfile(shipped) else Path(user_file_or_name(preset, what="preset"))
    if os.path.isfile(path):
        return path.read_text()
    if not preset.startswith(_ARTIFACTS):
        names = ", ".join(preset_names())
        raise UserError(
            f"preset '{preset}' is none of {names}, no file, and no artifact such as runs:/<id>/best.yaml"
        )
    open_store()
    try:
        return load_text(preset)
    except (MlflowException, OSError) as error:
        raise UserError(f"preset {preset} can't be read from the MLflow store: {error}") from error


def flatten(values: Mapping[str, Any], prefix: str = "", *, whole: Container[str] = ()) -> dict[str, Any]:
    """Nested mappings -> dotted names; the mappings whose dotted names are in `whole` stay as they are."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and f"{prefix}{name}" not in whole:
            flat |= flatten(value, f"{prefix}{name}.", whole=whole)
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def command_arguments() -> list[str]:
    """What the command line holds after the program."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    return sys.argv[1:]
