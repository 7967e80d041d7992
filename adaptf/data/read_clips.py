"""From a data set as the user has it to its clip table."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from adaptf.data.clips import COLUMNS, TEST, VALIDATION, check_clips
from adaptf.data.csv_table import read_csv_table
from adaptf.data.errors import DataError
from adaptf.data.split import cut_by_location
from adaptf.data.tau import is_tau, read_tau


def read_clips(root: Path, *, scenes: Sequence[str], validation_share: float, test_share: float, seed: int) -> pd.DataFrame:
    """The checked clip table of a TAU 2022 folder or of a CSV file, with its validation part cut out by location.

    Raises DataError, naming the rows, for what can't be used.
    """
    if root.is_file():
        table = read_csv_table(root)
    elif is_tau(root):
        table = read_tau(root)
    else:
        raise DataError(
            f"{root} is neither a TAU 2022 folder (meta.csv, evaluation_setup/, audio/) nor a CSV file with the columns "
            "filename, scene, device"
        )
    check_clips(table, scenes=scenes, source=str(root))
    if not (table["split"] == TEST).any():
        table = cut_by_location(table, share=test_share, to=TEST, seed=seed)
    return cut_by_location(table, share=validation_share, to=VALIDATION, seed=seed)[COLUMNS]


def audio_root(root: Path) -> Path:
    """The folder that filenames are relative to."""
    return root.parent if root.is_file() else root
