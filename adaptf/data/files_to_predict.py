"""Files to predict: a TAU evaluation set or a CSV with filename and, if known, device."""

from pathlib import Path

import pandas as pd

from adaptf.data.errors import DataError, raise_problems
from adaptf.data.tables import read_strings

EVALUATION_LIST = "evaluation_setup/test.csv"


def read_files_to_predict(path: Path) -> tuple[pd.DataFrame, Path]:
    """A table of filename and device ('' where unknown), and the folder that filenames are relative to.

    Raises DataError where the table is broken or files are missing.
    """
    if path.is_dir():
        table = read_strings(path / EVALUATION_LIST, ["filename"], separator="\t", separator_name="tab")
        root = path
    elif path.is_file():
        table = read_strings(path, ["filename"], separator=",", separator_name="comma")
        root = path.parent
    else:
        raise DataError(
            f"{path} does not exist: give a CSV file with the columns filename and device, or the folder of an evaluation set "
            f"with {EVALUATION_LIST}"
        )
    table = table.rename(columns={"device_id": "device"})
    if "device" not in table.columns:
        table["device"] = ""
    missing = [
        f"row {row}, {name}: the file is missing"
        for row, name in enumerate(table["filename"], 2)
        if not (root / name).is_file()
    ]
    raise_problems(missing, of=str(path))
    return table[["filename", "device"]], root
