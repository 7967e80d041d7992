"""Checkpoint files of the user's in the place of a run: one file, or one per device as a mapping or a folder."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from adaptf.data.clips import UNKNOWN
from adaptf.data.hashes import sha256_of
from adaptf.errors import UserError
from adaptf.paths import user_folder

ENDINGS = (".ckpt", ".npz")
FORMS = "a folder of <device>.ckpt, or a mapping such as '{a: a.ckpt, unknown: u.ckpt}'"


def files_of(value: str) -> dict[str, Path]:
    """Device -> file, of a mapping or a folder; one file alone is that of `unknown`, and so of every device.

    Empty where the value is none of these, but names runs. Raises UserError where a file is missing, or that for `unknown`.
    """
    if is_mapping(value):
        files = {device: local(path) for device, path in read_mapping(value).items()}
    elif is_several(value):
        files = files_in(local(value))
    else:
        files = {UNKNOWN: local(value)} if os.path.isfile(local(value)) else {}
    if absent := [f"{path} of {device}" for device, path in files.items() if not path.is_file()]:
        raise UserError(f"{value} names files that are not there: {', '.join(absent)}")
    if files and UNKNOWN not in files:
        raise UserError(
            f"{value} has models for {', '.join(files)} and none for '{UNKNOWN}', which answers for every other device: add it"
        )
    return files


def is_mapping(value: str) -> bool:
    """Whether it is one of devices to files."""
    return value.lstrip().startswith("{")


def is_several(value: str) -> bool:
    """Whether it has a file per device, as a mapping or a folder."""
    return is_mapping(value) or (bool(value) and os.path.isdir(local(value)))  # of os.path: many ids are too long a name


def local(path: str) -> Path:
    """Where a path of the command line is, from the root on; a relative one counts from where the user stands."""
    return ((user_folder() or Path.cwd()) / os.path.expanduser(path)).absolute()


def read_mapping(value: str) -> dict[str, str]:
    """Device -> path, as text. Raises UserError where it is no such mapping, or names a device twice."""
    try:
        node: Any = yaml.compose(value, Loader=yaml.SafeLoader)
        pairs = [(key.value, path.value) for key, path in node.value]  # text, whatever YAML takes `no` and `1` for
        right = bool(pairs) and all(isinstance(text, str) and text for pair in pairs for text in pair)
    except (yaml.YAMLError, AttributeError, TypeError, ValueError):
        right = False
    if not right:
        raise UserError(f"{value!r} is no mapping of devices to checkpoint files such as '{{a: a.ckpt, unknown: u.ckpt}}'")
    if len(dict(pairs)) < len(pairs):
        raise UserError(f"{value!r} names a device twice")
    return dict(pairs)


def files_in(folder: Path) -> dict[str, Path]:
    """By the names before their endings; hidden files and files of other endings are no models."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix in ENDINGS and not path.name.startswith(".")]
    files = {path.stem: path for path in found}
    if not found:
        raise UserError(f"{folder} is a folder without a checkpoint file: give {FORMS}")
    if len(files) < len(found):
        raise UserError(f"{folder} has two files of one device: {', '.join(path.name for path in found)}")
    return files


def from_root(value: str) -> str:
    """The same value wherever a process stands; ids of runs stay as they are."""
    files = files_of(value)
    if not files:
        return value
    return as_value(files) if is_several(value) else str(local(value))


def as_value(files: Mapping[str, Path]) -> str:
    """What `files_of` reads these from, wherever a process stands."""
    return json.dumps({device: str(path) for device, path in files.items()}, ensure_ascii=False)


def digests_of(value: str) -> dict[str, str]:
    """Device -> SHA-256 of its file; empty where the value names runs."""
    return {device: sha256_of(path) for device, path in files_of(value).items()}


def labels_of(value: str) -> dict[str, str]:
    """Device -> what a file is called where a run would be named by its id; empty where the value names runs."""
    return {device: label_of(path) for device, path in files_of(value).items()}


def label_of(path: Path) -> str:
    """As in `file a.ckpt (sha256 ...)`."""
    return f"file {path.name} (sha256 {sha256_of(path)})"
