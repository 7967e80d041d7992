"""Files to predict: a TAU evaluation set or a CSV with filename and, if known, device."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from adaptf.data.clips import FIRST_ROW
from adaptf.data.errors import DataError, raise_problems
from adaptf.data.tables import read_strings
from adaptf.names import find_file

_EVALUATION_LISTS = ("evaluation_setup/test.csv", "evaluation_setup/fold1_test.csv")
"""filename<TAB>device_id; some of the devices are called `unknown`.
Published copies have the one name or the other."""
ROWS_AT_ONCE = 4096


def read_files_to_predict(path: Path) -> tuple[pd.DataFrame, Path]:
    """A table of filename and device ('' where unknown), and the folder that filenames are relative to.

    Raises DataError where the table is broken or files are missing.
    """
    if path.is_dir():
        table = read_strings(evaluation_list(path), ["filename"])
        root = path
    elif path.is_file():
        table = read_strings(path, ["filename"])
        root = path.parent
    else:
        raise DataError(
            f"{path} does not exist: give a CSV file with the columns filename and device, or the folder of "
            f"an evaluation set with {' or '.join(_EVALUATION_LISTS)}"
        )
    if "device" not in table.columns:
        table["device"] = table["device_id"] if "device_id" in table.columns else ""
    if table.empty:
        raise DataError(f"{path} names no files")
    return table[["filename", "device"]], root


def check_each_file(
    table: pd.DataFrame, root: Path, *, problem_of: Callable[[Path], str], source: str, threads: int = 4
) -> None:
    """Raises DataError that names all files which have a problem, with their rows.
    `problem_of` says '' of those that don't."""
    problems = []
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(None, "checking files", len(table), unit="file", delay=2, mininterval=1) as bar,
    ):
        for start in range(0, len(table), ROWS_AT_ONCE):  # a row that waits takes 2 kB
            names = table["filename"].iloc[start : start + ROWS_AT_ONCE]
            found = pool.map(lambda name: problem_of(find_file(root, name)), names)
            for row, name, problem in zip(names.index + FIRST_ROW, names, found, strict=True):
                bar.update()
                if problem:
                    problems.append(f"row {row}, {name}: {problem}")
    raise_problems(problems, of=source)


def evaluation_list(folder: Path) -> Path:
    """The file that lists the evaluation set in a folder: filename<TAB>device_id.

    Raises DataError where there is none, or two of which one does not know which is meant."""
    found = [folder / name for name in _EVALUATION_LISTS if (folder / name).is_file()]
    if len({path.read_bytes() for path in found}) != 1:
        there = "both, which differ: leave one of them" if found else "neither"
        raise DataError(f"an evaluation set has {' or '.join(_EVALUATION_LISTS)}; {folder} has {there}")
    return found[0]
