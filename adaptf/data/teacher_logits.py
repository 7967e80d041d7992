"""A teacher's logits as a table keyed by file name:
never by row number, which another split or order would break.

folder/logits.parquet   filename and one column per class
folder/logits.json      the teacher's run, the digest of its data, the classes in order, the number of clips
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptf.data.errors import DataError, raise_problems
from adaptf.data.parquet import read_table, write_table

_TABLE, _ABOUT = "logits.parquet", "logits.json"


@dataclass(frozen=True)
class TeacherLogits:
    """Logits (clips, classes) of the named clips and classes."""

    filenames: tuple[str, ...]
    classes: tuple[str, ...]
    logits: NDArray[np.float32]
    teacher_run: str
    """Run that made them."""
    data_digest: str
    """Of the data set whose clips these are: names, labels, split and content."""

    def of(
        self, filenames: Sequence[str], *, classes: Sequence[str], data_digest: str
    ) -> NDArray[np.float32]:
        """Logits in the order of these clips.
        Raises DataError where data or classes are others or clips are missing."""
        source = f"the logits of teacher run {self.teacher_run}"
        if data_digest != self.data_digest:
            raise DataError(
                f"{source} belong to other data (digest {self.data_digest}) than that of this stage (digest "
                f"{data_digest}): run `teacher` on this stage's prepare_run, or give the prepare_run that "
                "the teacher took"
            )
        if tuple(classes) != self.classes:
            raise DataError(
                f"{source} hold the classes {', '.join(self.classes)}, expected {', '.join(classes)}, in "
                "this order"
            )
        rows = pd.Index(self.filenames).get_indexer(pd.Index(filenames))
        raise_problems(
            [f"{name}: no logits" for name, row in zip(filenames, rows, strict=True) if row < 0], of=source
        )
        return self.logits[rows]


def write_teacher_logits(folder: Path, table: TeacherLogits) -> None:
    """The folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(table.logits, columns=list(table.classes))
    frame.insert(0, "filename", list(table.filenames))
    write_table(folder / _TABLE, frame)
    about = {
        "teacher_run": table.teacher_run,
        "data_digest": table.data_digest,
        "classes": list(table.classes),
        "clips": len(table.filenames),
    }
    (folder / _ABOUT).write_text(json.dumps(about, indent=1))


def read_teacher_logits(folder: Path) -> TeacherLogits:
    """Raises DataError where it is no such table, clips are missing or stand there twice,
    or a logit is no number."""
    about = _read_about(folder / _ABOUT)
    frame = read_table(folder / _TABLE)
    columns, classes = ["filename", *about["classes"]], about["classes"]
    if list(frame.columns) != columns:
        raise DataError(
            f"{folder} has the columns {', '.join(frame.columns)}, by {_ABOUT} they are {', '.join(columns)}"
        )
    twice = frame["filename"][frame["filename"].duplicated()]
    raise_problems([f"{name} stands there twice" for name in twice], of=str(folder))
    if len(frame) != about["clips"]:
        raise DataError(
            f"{folder} holds {len(frame)} clips; {_ABOUT} there says {about['clips']}: it is not whole"
        )
    try:
        logits = frame[classes].to_numpy(np.float32)
    except ValueError as error:
        raise DataError(f"{folder} holds logits that are no numbers: {error}") from error
    if not np.isfinite(logits).all():
        raise DataError(f"{folder} holds logits that are not finite")
    return TeacherLogits(
        tuple(frame["filename"]), tuple(classes), logits, about["teacher_run"], about["data_digest"]
    )


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text())
        wrong = {"teacher_run", "data_digest", "classes", "clips"} - set(about)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}, which says whose logits these are, can't be read: {error}") from error
    raise_problems([f"'{name}' is missing" for name in sorted(wrong)], of=str(path))
    return dict(about)
