"""Reading of tables as the strings they hold, tidied."""

import csv
from pathlib import Path

import pandas as pd

from adaptf.data.errors import DataError
from adaptf.names import tidy, tidy_file_name

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
"""Spreadsheets take the semicolon where the comma separates decimals."""
_FILENAME = "filename"
"""Of the column of file names, in every table."""


def read_strings(path: Path, columns: list[str]) -> pd.DataFrame:
    """A table whose cells stay the strings they are ('NA' is a name), tidied; empty cells are ''.

    Its header tells which of SEPARATORS it has. Rows without any value are left out; the index counts them.
    Raises DataError where the file is missing, is no such table, lacks a column or names one twice.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    separator = _separator(path, columns)
    name = SEPARATORS[separator]
    try:
        # Told of a header, pandas takes the first column for row names where rows have more cells than the
        # header.
        lines = pd.read_csv(
            path,
            sep=separator,
            header=None,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,  # else a quote behind a blank is a part of the name
            encoding="utf-8-sig",
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is not readable as a {name} separated table in UTF-8: {str(error).strip()}"
        ) from error
    lines = lines.fillna("")
    table = (
        lines.iloc[1:].reset_index(drop=True).set_axis([tidy(cell) for cell in lines.iloc[0]], axis="columns")
    )
    twice = table.columns[table.columns.duplicated() & (table.columns != "")]
    if len(twice):
        raise DataError(f"{path} has the column {twice[0]} twice: leave one of them")
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has "
            f"{', '.join(table.columns)} (columns are separated by {name})"
        )
    return _tidied(table)


def _separator(path: Path, columns: list[str]) -> str:
    """The one that finds most of the columns in the first line."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        header = next((line for line in file if line.strip()), "")
    found = {
        separator: {tidy(cell) for cell in _cells(header, separator)} & set(columns)
        for separator in SEPARATORS
    }
    return max(SEPARATORS, key=lambda separator: len(found[separator]))


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return []


def _tidied(table: pd.DataFrame) -> pd.DataFrame:
    columns = [_tidied_cells(table.iloc[:, place], name) for place, name in enumerate(table.columns)]
    tidied = pd.concat(columns, axis="columns")
    return tidied[(tidied != "").any(axis="columns")]


def _tidied_cells(cells: pd.Series, column: str) -> pd.Series:
    change = tidy_file_name if column == _FILENAME else tidy
    changed = {cell: change(cell) for cell in cells.unique()}  # most columns hold few values
    return pd.Series([changed[cell] for cell in cells], index=cells.index, name=column, dtype=str)
