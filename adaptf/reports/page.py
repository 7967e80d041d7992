"""A report as one HTML page that fetches nothing:
headline, tables, pictures and sounds, from plain values."""

import base64
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from adaptf.evaluation.tables import as_rows

_MEDIA_TYPES = {".png": "image/png", ".flac": "audio/flac"}
_LONG_TABLE = 20
"""Tables of more rows may be cut at the end of a printed page."""


@dataclass(frozen=True)
class Cell:
    """Of a table."""

    text: str
    best: bool = False
    """Of its row: bold and with a star."""
    code: bool = False
    """Ids and digests."""
    words: bool = False
    """It stands on the left, as figures do on the right."""
    link: str = ""


@dataclass(frozen=True)
class TableRow:
    """Of a table."""

    name: str
    cells: tuple[Cell, ...]
    summary: bool = False
    """A line is drawn above it."""


@dataclass(frozen=True)
class Table:
    """Figures; the first of `header` is what the rows are."""

    kind: ClassVar = "table"
    caption: str
    header: tuple[str, ...]
    rows: tuple[TableRow, ...]

    @property
    def columns_of_words(self) -> set[int]:
        """Places in the header."""
        return {place for row in self.rows for place, cell in enumerate(row.cells, 1) if cell.words}


@dataclass(frozen=True)
class Picture:
    """A PNG file."""

    kind: ClassVar = "picture"
    path: Path
    caption: str
    alternative: str
    """What it shows, for those who can't see it."""


@dataclass(frozen=True)
class ShownClip:
    """What a model made of one clip."""

    filename: str
    scene: str
    predicted: str
    device: str
    place: str
    probabilities: tuple[tuple[str, float], ...]
    """Scenes with their probability, the highest first; the true one is among them."""
    picture: Path | None = None
    sound: Path | None = None


@dataclass(frozen=True)
class ShownClips:
    """Clips beside each other."""

    kind: ClassVar = "clips"
    clips: tuple[ShownClip, ...]


@dataclass(frozen=True)
class Section:
    """A headed part of the page, with what the navigation calls it."""

    title: str
    name: str
    text: tuple[str, ...] = ()
    """Paragraphs."""
    blocks: tuple[Table | Picture | ShownClips, ...] = ()


@dataclass(frozen=True)
class Report:
    """A page."""

    title: str
    lead: tuple[str, ...]
    """What a reader in a hurry should know, a sentence each."""
    warnings: tuple[str, ...]
    """What must be known before any figure is believed."""
    facts: tuple[tuple[str, str], ...]
    """What was judged, on what: name and value."""
    sections: tuple[Section, ...]


def write_report(report: Report, path: Path) -> Path:
    """Writes the page, with its pictures and sounds inside; the same report makes the same bytes."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.globals["LONG"] = _LONG_TABLE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.get_template("report.html").render(report=report), encoding="utf-8")
    return path


def _data_uri(path: Path) -> str:
    """A file's content, as a page holds it."""
    return f"data:{_MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def table_of(
    frame: pd.DataFrame,
    caption: str,
    *,
    mark_best: bool = False,
    lowest_is_best: Collection[str] = (),
    summaries: Collection[str] = (),
) -> Table:
    """A table written as everywhere else, figures on the right and words on the left.

    `mark_best` marks the highest of each row where there are several columns, or the lowest in the rows that
    are named so; what is written alike is marked alike.
    """
    mark_best = mark_best and len(frame.columns) > 1
    rows = []
    for name, texts, values in zip(
        map(str, frame.index), as_rows(frame), frame.to_numpy().tolist(), strict=True
    ):
        best = _best_texts(texts, values, lowest=name in lowest_is_best) if mark_best else set()
        both = zip(texts, values, strict=True)
        cells = tuple(Cell(text, best=text in best, words=isinstance(value, str)) for text, value in both)
        rows.append(TableRow(name, cells, summary=name in summaries))
    return Table(caption, (str(frame.index.name or ""), *map(str, frame.columns)), tuple(rows))


def _best_texts(texts: Sequence[str], values: Sequence[float], *, lowest: bool) -> set[str]:
    """How the best figure of a row is written; empty where there is none, or where all are the same."""
    known = [(value, text) for value, text in zip(values, texts, strict=True) if not math.isnan(value)]
    if len({text for _, text in known}) < 2:
        return set()
    return {(min if lowest else max)(known)[1]}
