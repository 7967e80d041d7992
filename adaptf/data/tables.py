"""Reading of tables as the strings they hold."""

from pathlib import Path

import pandas as pd

from adaptf.data.errors import DataError


def read_strings(path: Path, columns: list[str], *, separator: str, separator_name: str) -> pd.DataFrame:
    """A table whose cells stay the strings they are ('NA' is a name); empty cells are ''."""
    if not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not readable as a {separator_name} separated table: {error}") from error
    table.columns = table.columns.str.strip()
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has {', '.join(table.columns)} "
            f"(columns are separated by {separator_name})"
        )
    return table.fillna("")
