"""From a command line to a stage's configuration: presets, fields, links."""

import dataclasses
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from adaptf.errors import UserError

PRESETS = Path(__file__).parent / "presets"
Config = TypeVar("Config")


def parse(config_class: type[Config], *, stage: str, arguments: Sequence[str]) -> Config:
    """The configuration: defaults, then the preset, then the fields given. Exits with a message where one is wrong."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=f"python -m adaptf.mlproject.{stage}", description=(config_class.__doc__ or "").strip())
    parser.add_argument(
        "--preset", default="paper", help=f"differences to the defaults: {', '.join(preset_names())}, or a file"
    )
    parser.add_class_arguments(config_class, as_group=False)
    for source, targets in shared_leaves(config_class).items():
        for target in targets:
            parser.link_arguments(source, target)
    try:
        parser.set_defaults(preset_defaults(_preset_argument(arguments), stage, config_class))
    except KeyError as error:
        parser.error(f"preset: {error.args[0]}")
    except UserError as error:
        parser.error(str(error))
    parsed = vars(parser.instantiate(parser.parse_args(list(arguments))))
    return config_class(**{name: value for name, value in parsed.items() if name != "preset"})


def preset_names() -> list[str]:
    """Presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset_defaults(preset: str, stage: str, config_class: type) -> dict[str, Any]:
    """Dotted names and values of a preset that concern a stage.

    A preset has the shape of the configuration of `main`: a section per stage, and sections that stages share.
    """
    content = read_preset(preset)
    if stage == "main":
        return flatten(content)
    fields = {field.name for field in dataclasses.fields(config_class)}
    shared = {name: value for name, value in content.items() if name in fields}
    return flatten(shared) | flatten(content.get(stage) or {})


def read_preset(preset: str) -> dict[str, Any]:
    """Content of a shipped preset or of a YAML file. Raises UserError where there is none."""
    shipped = PRESETS / f"{preset}.yaml"
    path = shipped if shipped.is_file() else Path(preset)
    if not path.is_file():
        raise UserError(f"preset '{preset}' is neither one of {', '.join(preset_names())} nor a file")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"preset {path} is not readable as YAML: {error}") from error
    if not isinstance(content or {}, dict):
        raise UserError(f"preset {path} should hold sections such as 'distill:', it holds {type(content).__name__}")
    return content or {}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def shared_leaves(config_class: type) -> dict[str, list[str]]:
    """Fields of sections that a configuration shares with its parts: `mel.bands` -> [`pretrain.mel.bands`, ...]."""
    defaults = flatten(dataclasses.asdict(config_class()))
    links: dict[str, list[str]] = {}
    for target in defaults:
        _, _, source = target.partition(".")
        if source in defaults:
            links.setdefault(source, []).append(target)
    return links


def _preset_argument(arguments: Sequence[str]) -> str:
    for place, argument in enumerate(arguments):
        if argument.startswith("--preset="):
            return argument.removeprefix("--preset=")
        if argument == "--preset" and place + 1 < len(arguments):
            return arguments[place + 1]
    return "paper"


def command_arguments() -> list[str]:
    """What the command line holds after the program."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    return sys.argv[1:]
