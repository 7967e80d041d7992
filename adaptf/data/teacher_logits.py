"""A teacher's logits as a table keyed by file name: never by row number, which another split or order would break."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptf.data.errors import DataError, raise_problems
from adaptf.data.tables import read_strings


@dataclass(frozen=True)
class TeacherLogits:
    """Logits (clips, classes) of the named clips and classes."""

    filenames: tuple[str, ...]
    classes: tuple[str, ...]
    logits: NDArray[np.float32]

    def of(self, filenames: Sequence[str], classes: Sequence[str], *, source: str) -> NDArray[np.float32]:
        """Logits in the order of these clips. Raises DataError where clips are missing or the classes are others."""
        if tuple(classes) != self.classes:
            raise DataError(
                f"{source} holds the classes {', '.join(self.classes)}, expected {', '.join(classes)}, in this order"
            )
        place = {filename: row for row, filename in enumerate(self.filenames)}
        raise_problems([f"{name}: no logits" for name in filenames if name not in place], of=source)
        return self.logits[[place[name] for name in filenames]]


def write_teacher_logits(path: Path, table: TeacherLogits) -> None:
    """A CSV with the column filename and one column per class; nine digits give each float32 back exactly."""
    frame = pd.DataFrame(table.logits, columns=list(table.classes))
    frame.insert(0, "filename", list(table.filenames))
    frame.to_csv(path, index=False, float_format="%.9g")


def read_teacher_logits(path: Path) -> TeacherLogits:
    """Raises DataError where it is no such table, a clip stands twice or a logit is no number."""
    frame = read_strings(path, ["filename"], separator=",", separator_name="comma")
    twice = frame["filename"][frame["filename"].duplicated()]
    raise_problems([f"{name} stands there twice" for name in twice], of=str(path))
    classes = [name for name in frame.columns if name != "filename"]
    try:
        logits = frame[classes].to_numpy(np.float32)
    except ValueError as error:
        raise DataError(f"{path} holds logits that are no numbers: {error}") from error
    if not np.isfinite(logits).all():
        raise DataError(f"{path} holds logits that are not finite")
    return TeacherLogits(tuple(frame["filename"]), tuple(classes), logits)
