"""AudioSet: the published segment table beside a folder of whatever clips could be downloaded."""

import logging
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adaptf.data.decode import AUDIO_SUFFIXES
from adaptf.data.errors import DataError, raise_problems
from adaptf.data.folders import files_below
from adaptf.data.sets.published_lists import AUDIOSET_LABELS
from adaptf.data.tables import read_strings
from adaptf.names import tidy

logger = logging.getLogger(__name__)
_SEGMENTS = "balanced_train_segments.csv"
_LABELS = "class_labels_indices.csv"
_OTHER_SUFFIXES = {".3gp", ".aac", ".m4a", ".mka", ".mkv", ".mp4", ".opus", ".webm", ".wma"}
"""Of files that may hold a clip, but that have to be converted first."""

# YTID, start, end, quoted labels. Each line stands for itself, so that a quote left open does not swallow
# those that follow.
_ROW = re.compile(r'\s*([^\s,"]+)\s*,\s*(\d+(?:\.\d*)?)\s*,\s*\d+(?:\.\d*)?\s*,\s*("[^"]*"|[^",]*)\s*')
# Ids have 11 characters, among them '_' and '-'; what follows one is '_<start>' and anything, or nothing.
_STEM = re.compile(r"(.{11})(?:_(\d+(?:\.\d+)?)?.*)?")


@dataclass(frozen=True)
class _AudioSetClips:
    """The clips that have a file."""

    filenames: tuple[str, ...]
    """Relative to the data set's folder."""
    labels: tuple[str, ...]
    """Per clip, the places of its labels among the class names, ascending: '3 17'."""
    class_names: tuple[str, ...]
    validation: NDArray[np.bool_]
    """(clips,) cut out by video."""
    missing: tuple[str, ...]
    """Videos of the table that have no file."""


class _Segment(NamedTuple):
    """A row of the table."""

    video: str
    start_seconds: float
    labels: str
    """As in AudioSetClips."""


_Files = dict[str, dict[float | None, str]]
"""Video -> the number that follows it in the file's name, None where there is none -> file."""


def is_audioset(root: Path) -> bool:
    """Whether a folder holds AudioSet's tables."""
    return (root / _SEGMENTS).is_file()


def read_audioset(root: Path, *, validation_share: float, seed: int) -> _AudioSetClips:
    """The clips of the balanced training table for which `<id>.*` or `<id>_<start>*` lies anywhere below the
    folder.

    Label names are those of the folder's class_labels_indices.csv, or AudioSet's 527. Clips without a file
    are normal (videos vanish) and are left out. Raises DataError where a table is broken, a row has no label
    or an unknown one, two rows name one segment, a file fits two segments, or no clip has a file.
    """
    own = (root / _LABELS).is_file()
    names, place = _read_class_names(root / _LABELS if own else AUDIOSET_LABELS)
    segments = _read_segments(
        root / _SEGMENTS, place, labels_from=_LABELS if own else f"AudioSet's {len(names)} labels"
    )
    audio, other = _files_by_video(root)
    found = [(segment, _find_file(segment, audio)) for segment in segments]
    clips = [(segment, name) for segment, name in found if name]
    missing = [segment for segment, name in found if not name]
    to_convert = _to_convert(missing, other)
    _check_one_segment_per_file(clips, root)
    if not clips:
        raise DataError(
            f"none of the {len(missing)} videos of {root / _SEGMENTS} has an audio file below {root}: "
            f"<YTID>.wav or <YTID>_<start>.wav, also {', '.join(sorted(AUDIO_SUFFIXES - {'.wav'}))}"
            + (to_convert and f"; {to_convert}")
        )
    if to_convert:
        logger.warning("%s: %s", root, to_convert)
    drawn = np.array([zlib.crc32(f"{seed}/{segment.video}".encode()) / 2**32 for segment, _ in clips])
    return _AudioSetClips(
        filenames=tuple(name for _, name in clips),
        labels=tuple(segment.labels for segment, _ in clips),
        class_names=names,
        validation=drawn < validation_share,
        missing=tuple(segment.video for segment in missing),
    )


def _read_class_names(path: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """Display names in the order of their index, and the place of each label id among them."""
    try:
        table = read_strings(path, ["index", "mid", "display_name"])
        rows = table.assign(index=table["index"].astype(int)).sort_values("index", kind="stable")
    except (DataError, ValueError) as error:
        raise DataError(f"{path} should have the columns index, mid, display_name ({error})") from error
    return tuple(rows["display_name"]), {mid: place for place, mid in enumerate(rows["mid"])}


def _read_segments(path: Path, place: Mapping[str, int], *, labels_from: str) -> list[_Segment]:
    """The rows, with their labels as places. Raises DataError that lists every wrong row."""
    segments, problems = [], []
    first_line: dict[tuple[str, float], int] = {}
    for line, text in _rows(path):
        row = _ROW.fullmatch(text)
        if row is None:
            problems.append(f"line {line}: expected YTID, start, end and quoted labels, got '{text}'")
            continue
        video, start_seconds = row[1], float(row[2])
        labels = [label.strip() for label in row[3].strip('" ').split(",")]
        unknown = [label for label in labels if label not in place]
        first = first_line.setdefault((video, start_seconds), line)
        if labels == [""]:
            problems.append(f"line {line}, {video}: the row has no label")
        elif unknown:
            problems.append(f"line {line}, {video}: label '{unknown[0]}' is not in {labels_from}")
        elif first != line:
            problems.append(
                f"line {line}, {video}: line {first} names the segment from {start_seconds:g} s too"
            )
        places = sorted({place[label] for label in labels if label in place})
        segments.append(_Segment(video, start_seconds, " ".join(map(str, places))))
    raise_problems(problems, of=str(path))
    return segments


def _rows(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text. Lines that begin with # are comments."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            for line, text in enumerate(file, 1):
                if text.strip() and not text.startswith("#"):
                    yield line, tidy(text)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not readable as a comma separated table: {error}") from error


def _files_by_video(root: Path) -> tuple[_Files, _Files]:
    """Files that are audio, and files to be converted;
    where two have the same name but for folder and suffix, the first."""
    audio: _Files = {}
    other: _Files = {}
    for name in files_below(root, suffixes=AUDIO_SUFFIXES | _OTHER_SUFFIXES):
        path = PurePosixPath(name)
        stem = _STEM.fullmatch(path.stem)
        video, number = (stem[1], stem[2]) if stem else (path.stem, None)
        files = audio if path.suffix.lower() in AUDIO_SUFFIXES else other
        files.setdefault(video, {}).setdefault(float(number) if number else None, name)
    return audio, other


def _find_file(segment: _Segment, files: _Files) -> str | None:
    """The file of this segment:
    by its start in seconds or milliseconds, else one whose name tells no start."""
    of_video = files.get(segment.video, {})
    start = segment.start_seconds
    for number in (start, round(1000 * start), int(start), None):
        if number in of_video:
            return of_video[number]
    return None


def _check_one_segment_per_file(clips: list[tuple[_Segment, str]], root: Path) -> None:
    """Raises DataError for a file without a start in its name where the table has more than one segment of
    its video."""
    problems = []
    first_start: dict[str, float] = {}
    for segment, name in clips:
        if name in first_start:
            problems.append(
                f"{name} could be the segment from {first_start[name]:g} s or from {segment.start_seconds:g} "
                f"s: call such files <YTID>_<start>{PurePosixPath(name).suffix}"
            )
        first_start.setdefault(name, segment.start_seconds)
    raise_problems(problems, of=str(root))


def _to_convert(missing: list[_Segment], other: _Files) -> str:
    """What to do about clips that are there but in files that can't be read; '' where there are none."""
    files = [name for segment in missing if (name := _find_file(segment, other))]
    if not files:
        return ""
    suffixes = ", ".join(sorted({PurePosixPath(name).suffix for name in files}))
    return (
        f"for {len(files)} of the missing clips there is a file of a kind that is not read ({suffixes}), "
        f"such as {files[0]}: convert them to WAV or FLAC"
    )
