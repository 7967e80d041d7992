"""A request whose body is one file of audio, with what JSON says of a row in its query."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from adaptf.serving.body import Asked
from adaptf.serving.requests import AUDIO, DEVICE, SECOND, STREAM, invalid, shown
from adaptf.serving.response import Parameters

OCTETS = "application/octet-stream"

_PARAMETERS = {field.name: type(field.default) for field in fields(Parameters)}
_TYPES = {DEVICE: str, STREAM: str, SECOND: int} | _PARAMETERS


def is_audio(kind: str) -> bool:
    """Whether a content type, such as `audio/wav`, is that of a file; which of those that are read it is, its
    bytes tell."""
    return kind == OCTETS or kind.startswith("audio/")


def read_audio(content: bytes | bytearray, query: Iterable[tuple[str, str]]) -> Asked:
    """One row; `query`: names and values in the order in which they stand.
    Raises MlflowException (INVALID_PARAMETER_VALUE) for names that there are not, or that stand twice."""
    told: dict[str, Any] = {}
    for name, text in query:
        if name not in _TYPES:
            there = ", ".join(_TYPES)
            raise invalid(f"unknown parameter {shown(name)}; beside the audio there may be {there}")
        if name in told:
            raise invalid(f"{name!r} stands twice in the query")
        told[name] = _value_of(name, text)
    params = {name: told.pop(name) for name in _PARAMETERS if name in told}
    return Asked([{AUDIO: bytes(content)} | told], params, is_table=False)


def _value_of(name: str, text: str) -> Any:
    """Text that is no number stays what it is, and is refused where a number is wanted."""
    try:
        return _TYPES[name](text)
    except ValueError:
        return text
