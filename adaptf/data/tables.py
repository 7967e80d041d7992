"""Reading of tables as the strings they hold."""

from pathlib import Path

import pandas as pd

from adaptf.data.errors import DataError


def read_strings(path: Path, columns: list[str], *, separator: str, separator_name: str) -> pd.DataFrame:
    """A table whose cells stay the strings they are ('NA' is a name); empty cells are ''.

    Raises DataError where the file is missing, is no such table, lacks a column or names one twice.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        # Told of a header, pandas takes the first column for row names where rows have more cells than the header.
        lines = pd.read_csv(path, sep=separator, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is not readable as a {separator_name} separated table in UTF-8: {str(error).strip()}"
        ) from error
    table = lines.iloc[1:].reset_index(drop=True).set_axis(lines.iloc[0].fillna("").str.strip(), axis="columns")
    twice = table.columns[table.columns.duplicated() & (table.columns != "")]
    if len(twice):
        raise DataError(f"{path} has the column {twice[0]} twice: leave one of them")
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has {', '.join(table.columns)} "
            f"(columns are separated by {separator_name})"
        )
    return table.fillna("")
