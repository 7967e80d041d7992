"""Tables that one program leaves for another: parquet, which keeps types and every float as they are."""

from pathlib import Path

import pandas as pd

from adaptf.data.errors import DataError
from adaptf.files import write_atomically

_FORMER_SUFFIXES = (".csv", ".csv.gz")
"""Of tables that were left before there was parquet."""
_FORMER_TEXT = (
    *("filename", "scene", "device", "location", "city", "split", "labels", "key", "predicted"),
    *("checksum", "problem"),
)
"""Columns of those whose cells stay text, also where they look like numbers."""


def write_table(path: Path, table: pd.DataFrame, *, flush: bool = True) -> None:
    """Columns alone, without the index; alike tables make alike files. `flush` as for `write_atomically`."""
    content = table.to_parquet(index=False, compression="zstd", write_page_checksum=True)
    write_atomically(path, content, flush=flush)


def read_table(path: Path) -> pd.DataFrame:
    """What was written to `path`; or the CSV file that a former version left in its place, floats as float64.

    Raises DataError where there is neither, or it can't be read.
    """
    file = next(filter(Path.exists, (path, *map(path.with_suffix, _FORMER_SUFFIXES))), path)
    try:
        if file == path:
            return pd.read_parquet(file, page_checksum_verification=True)
        return pd.read_csv(file, dtype=dict.fromkeys(_FORMER_TEXT, str), keep_default_na=False)
    except Exception as error:  # damaged bytes can break the reader anywhere
        raise DataError(f"{file} is no table that can be read: {error}") from error
