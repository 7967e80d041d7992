"""Own data: any CSV file with the columns filename, scene, device and, if known, location, city and split."""

import logging
from pathlib import Path

import pandas as pd

from adaptf.data.clips import FIRST_ROW, SPLITS
from adaptf.data.errors import raise_problems
from adaptf.data.tables import read_strings

logger = logging.getLogger(__name__)


def read_csv_table(path: Path) -> pd.DataFrame:
    """The clips of a CSV file; filenames are relative to its folder.
    Without a split column all clips are for training."""
    table = read_strings(path, ["filename", "scene", "device"])
    without = "location" not in table.columns
    if without:
        table["location"] = ""
    if unknown := int((table["location"] == "").sum()):
        logger.warning(
            "%s has %s: each file counts as a place of its own. Clips of one place on both sides of a "
            "split make its scores too good; add the column where recordings were cut into clips.",
            path,
            "no column 'location'" if without else f"no location in {unknown} of {len(table)} rows",
        )
        table["location"] = table["location"].where(table["location"] != "", table["filename"])
    if "split" not in table.columns:
        table["split"] = "train"
    if "city" not in table.columns:
        table["city"] = ""
    problems = [
        f"row {row}, {filename}: split '{split}' should be one of {', '.join(SPLITS)}"
        for row, filename, split in zip(
            table.index + FIRST_ROW, table["filename"], table["split"], strict=True
        )
        if split not in SPLITS
    ]
    raise_problems(problems, of=str(path))
    return table
