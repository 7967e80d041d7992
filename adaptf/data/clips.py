"""The clip table: one row per clip, whatever data set it comes from.

Columns: filename (relative to the data set's folder; parts of longer files as parts.py names them), scene, device, location,
city ('' where unknown), split (train, validation or test).
"""

from collections.abc import Sequence

import pandas as pd

from adaptf.data.errors import raise_problems
from adaptf.data.parts import MARK

COLUMNS = ["filename", "scene", "device", "location", "city", "split"]
TRAIN, VALIDATION, TEST = "train", "validation", "test"
UNKNOWN = "unknown"
"""Stands for every recording device that has no model of its own."""

FIRST_ROW = 2
"""Of a table as an editor counts its lines: the first one names the columns."""

TAU_SCENES = (
    "airport",
    "bus",
    "metro",
    "metro_station",
    "park",
    "public_square",
    "shopping_mall",
    "street_pedestrian",
    "street_traffic",
    "tram",
)


def check_clips(table: pd.DataFrame, *, scenes: Sequence[str], source: str) -> None:
    """Raises DataError for rows without a value, of an unknown scene or for a file that another row names too.

    The table's index is the place of a row in the file that it was read from.
    """
    filename, scene, device = table["filename"], table["scene"], table["device"]
    wrong = {
        "filename, scene and device must not be empty": (filename == "") | (scene == "") | (device == ""),
        f"the scene should be one of {', '.join(scenes)}": (scene != "") & ~scene.isin(scenes),
        "device names must not hold '/' or ':', which no registered model's name can hold": device.str.contains("[/:]"),
        f"file names must not hold '{MARK}', which marks parts of files": filename.str.contains(MARK, regex=False),
        "a row above names this file too": filename.duplicated(),
    }
    problems = [
        f"row {row + FIRST_ROW}, {filename[row]} (scene '{scene[row]}', device '{device[row]}'): {what}"
        for what, rows in wrong.items()
        for row in table.index[rows.to_numpy(dtype=bool)]
    ]
    if table.empty:
        problems.append("no clips")
    raise_problems(problems, of=source)


def devices_of(table: pd.DataFrame, split: str = TRAIN) -> list[str]:
    """Device names of a split, sorted."""
    return sorted(table.loc[table["split"] == split, "device"].unique())
