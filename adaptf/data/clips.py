"""The clip table: one row per clip, whatever data set it comes from.

Columns: filename (relative to the data set's folder), scene, device, location, split (train, validation or test).
"""

from collections.abc import Sequence

import pandas as pd

from adaptf.data.errors import raise_problems

COLUMNS = ["filename", "scene", "device", "location", "split"]
TRAIN, VALIDATION, TEST = "train", "validation", "test"
UNKNOWN = "unknown"
"""Stands for every recording device that has no model of its own."""

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
    """Raises DataError for rows without a value, of an unknown scene or for a file that another row names too."""
    problems = []
    first_row: dict[str, int] = {}
    for row, (filename, scene, device) in enumerate(zip(table["filename"], table["scene"], table["device"], strict=True), 2):
        where = f"row {row}, {filename}"
        if not (filename and scene and device):
            problems.append(f"{where}: filename, scene and device must not be empty")
        elif scene not in scenes:
            problems.append(f"{where}: unknown scene '{scene}', expected one of {', '.join(scenes)}")
        elif "/" in device or ":" in device:
            problems.append(f"{where}: device '{device}' holds '/' or ':', which no registered model's name can hold")
        if filename in first_row:
            problems.append(f"{where}: the file is named by row {first_row[filename]} too")
        first_row.setdefault(filename, row)
    if table.empty:
        problems.append("no clips")
    raise_problems(problems, of=source)


def devices_of(table: pd.DataFrame, split: str = TRAIN) -> list[str]:
    """Device names of a split, sorted."""
    return sorted(table.loc[table["split"] == split, "device"].unique())
