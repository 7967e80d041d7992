"""From a command line to a stage's configuration: presets, fields, links."""

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from adaptf.data.names import tidy
from adaptf.errors import UserError
from adaptf.paths import user_file_or_name, user_path

PRESETS = Path(__file__).parents[1] / "mlproject" / "presets"
DEFAULT_PRESET = "default"
NONE = "none"
ARTIFACTS = ("runs:/", "mlflow-artifacts:/")
"""Begin of the URIs of artifacts that hold a preset."""
Config = TypeVar("Config")


def parse(config_class: type[Config], *, stage: str, arguments: Sequence[str]) -> Config:
    """The configuration: defaults, then the preset, then the fields given. Exits with a message where one is wrong."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    program = f"python -m adaptf.mlproject.{stage}"
    parser = ArgumentParser(
        prog=program,
        usage=f"{program} [--preset NAME] [--SECTION.FIELD VALUE ...]",  # all fields would bury an error's message
        description=(config_class.__doc__ or "").strip(),
        allow_abbrev=False,
    )
    presets = f"differences to the defaults: {', '.join(preset_names())}, a YAML file, or runs:/<id>/best.yaml of a sweep"
    parser.add_argument("--preset", default=DEFAULT_PRESET, help=presets)
    parser.add_class_arguments(config_class, as_group=False)
    for source, targets in shared_leaves(config_class).items():
        for target in targets:
            parser.link_arguments(source, target)
    try:
        preset = preset_arguments(chosen_preset(arguments), stage, config_class)
    except UserError as error:
        parser.error(str(error))
    given = with_lists(with_switches(arguments, config_class), config_class)
    namespace = parser.parse_args([*preset, *given])
    try:
        parsed = vars(parser.instantiate(namespace))
        config = config_class(**{name: value for name, value in parsed.items() if name != "preset"})
        return as_meant(config, config_class())
    except UserError as error:
        parser.error(str(error))


def as_meant(config: Config, default: Config, prefix: str = "") -> Config:
    """Paths made absolute and names tidied in the fields that are not as by default, also in sections.

    Raises UserError for a path that can't be one.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value, usual, name = getattr(config, field.name), getattr(default, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            changes[field.name] = as_meant(value, usual, f"{name}.")
        elif value != usual:
            changes[field.name] = meant(value, field.metadata, name)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def meant(value: Any, metadata: Mapping[str, Any], name: str) -> Any:
    """What a value given for a field stands for."""
    if "path" in metadata:
        return value if value == NONE else user_path(value, what=name)
    if "stage" in metadata or "file or name" in metadata:
        return user_file_or_name(value, what=name)
    if isinstance(value, tuple):
        return tuple(meant(one, {}, name) for one in value)
    if isinstance(value, dict):
        return {tidy(key): one for key, one in value.items()}
    return tidy(value) if isinstance(value, str) else value


def with_switches(arguments: Sequence[str], config_class: type) -> list[str]:
    """`--download` alone stands for `--download=true`, and so does every field that is true or false."""
    switches = {f"--{name}" for name, value in settings(config_class()).items() if isinstance(value, bool)}
    pairs = zip(arguments, [*arguments[1:], "--"], strict=False)
    return [f"{name}=true" if name in switches and following.startswith("--") else name for name, following in pairs]


def with_lists(arguments: Sequence[str], config_class: type) -> list[str]:
    """`--seeds 0,1,2` stands for `--seeds=[0,1,2]`, and so does every field that is a list."""
    lists = {f"--{name}" for name, value in settings(config_class()).items() if isinstance(value, tuple)}
    found: list[str] = []
    for argument in arguments:
        before = found[-1] if found else ""
        name, equals, value = argument.partition("=")
        if before in lists and not argument.startswith(("--", "[")):
            found[-1:] = [f"{before}=[{argument}]"]
        elif name in lists and equals and not value.startswith("["):
            found.append(f"{name}=[{value}]")
        else:
            found.append(argument)
    return found


def preset_names() -> list[str]:
    """Presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("[!.]*.yaml"))


def preset_arguments(preset: str, stage: str, config_class: type) -> list[str]:
    """What a preset says of a stage, as the command line would say it, so that it is checked alike.

    A preset has the shape of the configuration of `main`: a section per stage, and sections that stages share.
    """
    content = read_preset(preset)
    if stage != "main":
        fields = {field.name for field in dataclasses.fields(config_class)}
        shared = {name: value for name, value in content.items() if name in fields}
        content = shared | content.get(stage, {})
    return [f"--{name}={as_argument(value)}" for name, value in flatten(content, whole=settings(config_class())).items()]


def as_argument(value: Any) -> str:
    """A YAML value as text on a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def read_preset(preset: str) -> dict[str, Any]:
    """Content of a shipped preset, of a YAML file or of a run's artifact. Raises UserError where there is none."""
    shipped = PRESETS / f"{preset}.yaml"
    path = shipped if shipped.is_file() else Path(user_file_or_name(preset, what="preset"))
    if preset.startswith(ARTIFACTS):
        text = artifact_text(preset)
    elif path.is_file():
        text = path.read_text()
    else:
        raise UserError(
            f"preset '{preset}' is neither one of {', '.join(preset_names())} nor a file nor a run's artifact "
            "such as runs:/<id>/best.yaml"
        )
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"preset {preset} is not readable as YAML: {error}") from error
    if not isinstance(content or {}, dict):
        raise UserError(
            f"preset {preset} should hold sections such as 'distill:', it holds the {type(content).__name__} {content!r}"
        )
    check_sections(content or {}, preset)
    return content or {}


def artifact_text(uri: str) -> str:
    """Of a text artifact in the MLflow store. Raises UserError where there is none."""
    from mlflow.artifacts import load_text  # here, because most command lines need no store
    from mlflow.exceptions import MlflowException

    from adaptf.tracking.runs import use_default_store

    use_default_store()
    try:
        return str(load_text(uri))
    except (MlflowException, OSError) as error:
        raise UserError(f"preset {uri} can't be read from the MLflow store: {error}") from error


def check_sections(content: Mapping[str, Any], preset: str) -> None:
    """Raises UserError for a section that no stage has: such a slip would otherwise change nothing, in silence."""
    from adaptf.mlproject.main import MainConfig  # here, because main knows all stages and this file none

    defaults = dataclasses.asdict(MainConfig())
    for name, value in content.items():
        if name not in defaults:
            raise UserError(f"preset {preset} has a section '{name}', there are {', '.join(defaults)}")
        if isinstance(defaults[name], dict) and not isinstance(value, dict):
            raise UserError(
                f"preset {preset}: section '{name}' should hold settings such as {example(defaults[name])}, not {value!r}"
            )


def example(section: Mapping[str, Any]) -> str:
    """One setting of a section."""
    name, value = next(iter(flatten(section).items()))
    return f"'{name}: {value}'"


def flatten(values: Mapping[str, Any], prefix: str = "", *, whole: Container[str] = ()) -> dict[str, Any]:
    """Nested mappings -> dotted names; the mappings whose dotted names are in `whole` stay as they are."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and f"{prefix}{name}" not in whole:
            flat |= flatten(value, f"{prefix}{name}.", whole=whole)
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def settings(config: Any, prefix: str = "") -> dict[str, Any]:
    """The fields of a configuration and of its sections by their dotted names; a field may be a mapping."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= settings(value, f"{prefix}{field.name}.")
        else:
            flat[f"{prefix}{field.name}"] = value
    return flat


def shared_leaves(config_class: type) -> dict[str, list[str]]:
    """Fields of the sections that `main` shares with its stages: `mel.bands` -> [`pretrain.mel.bands`, ...]."""
    defaults = settings(config_class())
    links: dict[str, list[str]] = {}
    for target in defaults:
        _, _, source = target.partition(".")
        if source in defaults and source.partition(".")[0] in getattr(config_class, "SHARED", ()):
            links.setdefault(source, []).append(target)
    return links


def chosen_preset(arguments: Sequence[str]) -> str:
    """The preset that a command line names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default=DEFAULT_PRESET)
    return str(parser.parse_known_args(list(arguments))[0].preset)


def command_arguments() -> list[str]:
    """What the command line holds after the program."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    return sys.argv[1:]
