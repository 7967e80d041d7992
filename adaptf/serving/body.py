"""The body of a request -> its rows and parameters,
counted before anything grows with what the body claims to hold."""

import csv
import json
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from typing import Any

import orjson
import pybase64
from mlflow.pyfunc.scoring_server import CONTENT_TYPE_JSON

from adaptf.serving.entrance import MAX_BODY_BYTES
from adaptf.serving.requests import (
    AUDIO,
    MAX_ROWS,
    WANTED_COLUMNS,
    Columns,
    check_columns,
    check_number,
    invalid,
)

_MOST_MARKS = 16 * MAX_ROWS
"""Every value but the first stands behind a `,`, `[` or `{`; a row needs four.
Base64 has none of them, a name a few."""


@dataclass(frozen=True)
class Asked:
    """What a request asks for."""

    rows: list[dict[str, Any]]
    params: Any = None
    is_table: bool = True
    """Or a file of audio."""

    @property
    def columns(self) -> Columns:
        """Of the rows; what a row lacks is null."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        columns = {name: [row.get(name) for row in self.rows] for name in names}
        return columns | {AUDIO: [_file_of(value) for value in columns[AUDIO]]}


def read_table(content: bytes | bytearray, kind: str) -> Asked:
    """A body of the type JSON or CSV.
    Raises MlflowException (INVALID_PARAMETER_VALUE) that says what is wrong."""
    if sum(map(content.count, (b",", b"[", b"{"))) > _MOST_MARKS:
        raise invalid(f"a request may have 1 to {MAX_ROWS} rows, this body has more values: {WANTED_COLUMNS}")
    try:
        body = _read_json(content) if kind == CONTENT_TYPE_JSON else _read_csv(content.decode())
    except (ValueError, RecursionError, csv.Error) as error:
        raise invalid(f"the body is not readable as {kind}: {type(error).__name__}: {error}") from error
    rows = _rows_in(body)
    check_number(len(rows))
    check_columns(list(dict.fromkeys(column for row in rows for column in row)))
    return Asked(rows, body.get("params"))


def _file_of(value: Any) -> Any:
    """The bytes, where it is base64 of some; else the value, of which the router says what is wrong.
    Python's own decoder takes half a millisecond for a second of audio, this one a twentieth of it."""
    try:
        return pybase64.b64decode(value, validate=True) or value
    except (TypeError, ValueError):
        return value


def _read_json(content: bytes | bytearray) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content)  # takes NaN too, and says in its own words what is wrong


def _read_csv(text: str) -> dict[str, Any]:
    """In the form of JSON, with one row more than are allowed at most; an empty device is null."""
    csv.field_size_limit(MAX_BODY_BYTES)
    rows = islice(csv.DictReader(StringIO(text, newline=""), strict=True), MAX_ROWS + 1)
    return {"dataframe_records": [{column: value or None for column, value in row.items()} for row in rows]}


def _rows_in(body: Any) -> list[dict[str, Any]]:
    """Of either form."""
    match body:
        case {"dataframe_records": [*rows]} if all(isinstance(row, dict) for row in rows):
            return rows
        case {"dataframe_split": {"columns": [*columns], "data": [*rows]}} if all(
            isinstance(row, list) and len(row) == len(columns) for row in rows
        ):
            check_columns(columns)
            return [dict(zip(columns, row, strict=True)) for row in rows]
    raise invalid(f"send rows as 'dataframe_records' or 'dataframe_split': {WANTED_COLUMNS}")
