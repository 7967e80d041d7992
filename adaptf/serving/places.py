"""Where rows of a request belong: the stream and the second of each."""

from typing import Any, NamedTuple

import numpy as np

from adaptf.serving.requests import (
    SECOND,
    STREAM,
    WANTED_COLUMNS,
    Columns,
    each_row,
    invalid,
    is_null,
    shown,
)

_LONGEST_NAME = 100
_MOST_SECONDS = 10**9


class Place(NamedTuple):
    """Of a row."""

    row: int
    """From 0."""
    stream: str
    second: int
    """Of the stream, from 0, at which the row's audio begins."""


def read_places(columns: Columns, *, of_streams: bool) -> list[Place]:
    """Those of all rows, none where they are not `of_streams`.
    Raises MlflowException (INVALID_PARAMETER_VALUE) that names the row or column at fault."""
    there = [column for column in (STREAM, SECOND) if column in columns]
    # Spark gives all columns of the signature, those without a value empty.
    if not of_streams and (filled := [column for column in there if not all(map(is_null, columns[column]))]):
        raise invalid(f"column {filled[0]!r} is for aggregate='stream'")
    if of_streams and len(there) < 2:
        raise invalid(f"aggregate='stream' needs the columns {STREAM!r} and {SECOND!r}: {WANTED_COLUMNS}")
    values = zip(columns[STREAM], columns[SECOND], strict=True) if of_streams else ()
    return [Place(row, *place) for row, place in enumerate(each_row(values, _read_place))]


def _read_place(values: tuple[Any, Any]) -> tuple[str, int]:
    name, second = values
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        raise ValueError(f"{STREAM} should be a name of 1 to {_LONGEST_NAME} characters, got {shown(name)}")
    is_number = isinstance(second, int | float | np.integer) and not isinstance(second, bool)
    if not is_number or not 0 <= second <= _MOST_SECONDS or second != int(second):
        raise ValueError(f"{SECOND} should be a whole number from 0 to {_MOST_SECONDS}, got {shown(second)}")
    return name, int(second)
