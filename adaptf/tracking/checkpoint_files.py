"""Checkpoint files of the user's in the place of a run:
one file, or one per device as a mapping or a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from adaptf.data.clips import UNKNOWN
from adaptf.data.folders import files_below
from adaptf.errors import UserError
from adaptf.files import sha256_of
from adaptf.names import stored, tidy
from adaptf.paths import found_path, user_path
from adaptf.tracking.tags import FILE

_ENDINGS = (".ckpt", ".npz")
FORMS = "a folder of <device>.ckpt, or a mapping such as '{a: a.ckpt, unknown: u.ckpt}'"


def files_of(value: str) -> dict[str, Path]:
    """Device -> file, of a mapping or a folder; one file alone is that of `unknown`, and so of every device.

    Empty where the value is none of these, but names runs.
    Raises UserError where a file is missing, or that for `unknown`.
    """
    if is_mapping(value):
        files = {
            device: Path(user_path(path, what=f"the file of {device}"))
            for device, path in _read_mapping(value).items()
        }
    elif path := found_path(value):
        files = _files_in(path) if path.is_dir() else {UNKNOWN: path}
    else:
        files = {}
    if absent := [f"{path} of {device}" for device, path in files.items() if not path.is_file()]:
        raise UserError(f"{value} names files that are not there: {', '.join(absent)}")
    if files and UNKNOWN not in files:
        raise UserError(
            f"{value} has models for {', '.join(files)} and none for '{UNKNOWN}', which answers for every "
            "other device: add it"
        )
    return files


def is_mapping(value: str) -> bool:
    """Whether it is one of devices to files."""
    return value.lstrip().startswith("{")


def is_several(value: str) -> bool:
    """Whether it has a file per device, as a mapping or a folder."""
    path = None if is_mapping(value) else found_path(value)
    return is_mapping(value) or (path is not None and path.is_dir())


def _read_mapping(value: str) -> dict[str, str]:
    """Device -> path, as text. Raises UserError where it is no such mapping, or names a device twice."""
    try:
        node: Any = yaml.compose(value, Loader=yaml.SafeLoader)
        pairs = [
            (tidy(key.value), path.value) for key, path in node.value
        ]  # text, whatever YAML takes `no` and `1` for
        right = bool(pairs) and all(isinstance(text, str) and text for pair in pairs for text in pair)
    except (yaml.YAMLError, AttributeError, TypeError, ValueError):
        right = False
    if not right:
        raise UserError(
            f"{value!r} is no mapping of devices to checkpoint files such as '{{a: a.ckpt, unknown: u.ckpt}}'"
        )
    if len(dict(pairs)) < len(pairs):
        raise UserError(f"{value!r} names a device twice")
    return dict(pairs)


def _files_in(folder: Path) -> dict[str, Path]:
    """By the names before their endings;
    hidden files, files of other endings and those in folders below are no models."""
    found = [folder / name for name in files_below(folder, suffixes=_ENDINGS) if "/" not in name]
    files = {tidy(path.stem): path for path in found}
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
    return as_value(files) if is_several(value) else str(files[UNKNOWN])


def as_value(files: Mapping[str, Path]) -> str:
    """What `files_of` reads these from, wherever a process stands."""
    return json.dumps({device: str(path) for device, path in files.items()}, ensure_ascii=False)


def digests_of(value: str) -> dict[str, str]:
    """Device -> SHA-256 of its file; empty where the value names runs."""
    return {device: sha256_of(path) for device, path in files_of(value).items()}


def labels_of(value: str) -> dict[str, str]:
    """Device -> what a file is called where a run would be named by its id;
    empty where the value names runs."""
    return {device: _label_of(path) for device, path in files_of(value).items()}


def _label_of(path: Path) -> str:
    """As in `file a.ckpt (sha256 ...)`."""
    return f"file {path.name} (sha256 {sha256_of(path)})"


def file_tags(field: str, value: str) -> dict[str, str]:
    """By device the checkpoint files that a field names; none where it names runs."""
    return {f"{FILE}{field}/{stored(device)}": label for device, label in labels_of(value).items()}
