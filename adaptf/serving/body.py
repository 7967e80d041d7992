"""The body of a request -> its rows and parameters,
counted before anything grows with what the body claims to hold."""

import csv
import json
from io import StringIO
from itertools import islice
from typing import Any

from mlflow.pyfunc.scoring_server import CONTENT_TYPE_CSV, CONTENT_TYPE_JSON

from adaptf.serving.entrance import MAX_BODY_BYTES, TurnedAway
from adaptf.serving.requests import MAX_ROWS, WANTED_COLUMNS, check_columns, check_number, invalid

_MOST_MARKS = 16 * MAX_ROWS
"""Every value but the first stands behind a `,`, `[` or `{`; a row needs four.
Base64 has none of them, a name a few."""


def read_body(content: bytes | bytearray, content_type: str) -> dict[str, Any]:
    """The body as `dataframe_records` and `params`, which MLflow's scoring server takes.

    Raises MlflowException (INVALID_PARAMETER_VALUE) that says what is wrong, and TurnedAway for another type.
    """
    kind, _, charset = content_type.replace(" ", "").lower().partition(";")
    if kind not in (CONTENT_TYPE_JSON, CONTENT_TYPE_CSV) or charset not in ("", "charset=utf-8"):
        wanted = f"{CONTENT_TYPE_JSON} or {CONTENT_TYPE_CSV}"
        message = f"the content type should be {wanted}, in UTF-8, got {content_type[:80]!r}"
        raise TurnedAway(415, message, counted_as="refused")
    if sum(map(content.count, (b",", b"[", b"{"))) > _MOST_MARKS:
        raise invalid(f"a request may have 1 to {MAX_ROWS} rows, this body has more values: {WANTED_COLUMNS}")
    try:
        body = json.loads(content) if kind == CONTENT_TYPE_JSON else _read_csv(content.decode())
    except (ValueError, RecursionError, csv.Error) as error:
        raise invalid(f"the body is not readable as {kind}: {type(error).__name__}: {error}") from error
    rows = _rows_in(body)
    check_number(len(rows))
    check_columns(list({column: None for row in rows for column in row}))
    return {"dataframe_records": rows, "params": body.get("params")}


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
