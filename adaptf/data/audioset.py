"""AudioSet: the published segment tables beside a folder of whatever clips could be downloaded."""

import csv
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptf.data.errors import DataError, raise_problems

SEGMENTS = "balanced_train_segments.csv"
LABELS = "class_labels_indices.csv"
AUDIO_SUFFIXES = {".wav", ".flac", ".ogg"}


@dataclass(frozen=True)
class AudioSetClips:
    """The clips that have a file."""

    filenames: tuple[str, ...]
    """Relative to the data set's folder."""
    targets: NDArray[np.float32]
    """(clips, classes), several labels each."""
    class_names: tuple[str, ...]
    validation: NDArray[np.bool_]
    """(clips,) cut out by video."""
    missing: tuple[str, ...]
    """Videos of the table that have no file."""


def is_audioset(root: Path) -> bool:
    """Whether a folder holds AudioSet's tables."""
    return (root / SEGMENTS).is_file()


def read_audioset(root: Path, *, validation_share: float, seed: int) -> AudioSetClips:
    """The clips of the balanced training table for which `<id>.*` or `<id>_<start>*` lies anywhere below the folder.

    Clips without a file are normal (videos vanish) and are left out. Raises DataError where a table is broken, a label
    unknown, or no clip has a file.
    """
    names, place = _read_class_names(root / LABELS)
    files = _files_by_video(root)
    filenames, targets, missing, problems = [], [], [], []
    for line, video, start_seconds, labels in _read_segments(root / SEGMENTS):
        unknown = [label for label in labels if label not in place]
        if unknown:
            problems.append(f"line {line}, {video}: label {unknown[0]} is not in {LABELS}")
        elif (path := _file_of(files.get(video, []), start_seconds)) is None:
            missing.append(video)
        else:
            filenames.append(path.relative_to(root).as_posix())
            target = np.zeros(len(names), dtype=np.float32)
            target[[place[label] for label in labels]] = 1
            targets.append(target)
    raise_problems(problems, of=str(root / SEGMENTS))
    if not filenames:
        raise DataError(f"none of the {len(missing)} videos of {root / SEGMENTS} has an audio file below {root}")
    drawn = np.array([zlib.crc32(f"{seed}/{name}".encode()) / 2**32 for name in filenames])
    return AudioSetClips(tuple(filenames), np.stack(targets), names, drawn < validation_share, tuple(missing))


def _read_class_names(path: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: int(row["index"]))
        return tuple(row["display_name"] for row in rows), {row["mid"]: place for place, row in enumerate(rows)}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} should have the columns index, mid, display_name ({error!r})") from error


def _read_segments(path: Path) -> Iterator[tuple[int, str, float, list[str]]]:
    """Line number, video, start in seconds, label ids. Lines that begin with # are comments."""
    with open(path, newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.reader(file, skipinitialspace=True), 1):
            if not row or row[0].startswith("#"):
                continue
            try:
                video, start, _, labels = row
                yield line, video, float(start), labels.split(",")
            except ValueError as error:
                raise DataError(f"{path}, line {line}: expected YTID, start, end and quoted labels, got {row}") from error


def _files_by_video(root: Path) -> dict[str, list[Path]]:
    """Ids have 11 characters, among them '_' and '-'; what follows an id is '_<start>' and anything, or nothing."""
    files: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in AUDIO_SUFFIXES:
            stem = path.stem
            files.setdefault(stem[:11] if re.match(r"^.{11}(_|$)", stem) else stem, []).append(path)
    return files


def _file_of(paths: list[Path], start_seconds: float) -> Path | None:
    """The file of this segment: by its start in seconds or milliseconds where the name tells, else the only one."""
    starts = (
        f"_{start_seconds:.3f}",
        f"_{start_seconds:g}",
        f"_{round(start_seconds * 1000)}",
        f"_{int(start_seconds)}",
    )
    for path in paths:
        if any(path.stem[11:].startswith(start) for start in starts):
            return path
    return paths[0] if len(paths) == 1 else None
