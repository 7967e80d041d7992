"""What `compare` tells of two models on the same clips: as text, as a note, and as one page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pandas as pd

from adaptf.evaluation.changes import CHANGE, GAINED, LOST
from adaptf.evaluation.tables import as_markdown, as_text
from adaptf.pipeline.artifacts import TABLES, TABLES_FOLDER
from adaptf.reports.page import Picture, Report, Section, table_of
from adaptf.tracking.notes import LONGEST_NOTE, for_page

PAGE, _CLIPS = "compare.html", "changed clips"
_CLIPS_SHOWN = 10
_OTHERS = f"The other tables are in {TABLES}."
_CORRECTED = (
    "Per scene and device each interval is that of its row alone; p is corrected for the number of rows "
    "(Holm, 1979), and a difference stands where it is below 0.05."
)


@dataclass(frozen=True)
class Pair:
    """The first model and another one."""

    place: int
    """Of the other one in `runs`; 2 comes after the first."""
    names: tuple[str, str]
    scenes: pd.DataFrame
    """`group_table`"""
    devices: pd.DataFrame
    clips: pd.DataFrame
    """`changed_clips`"""
    folder: Path
    """Where its picture is."""

    @property
    def suffix(self) -> str:
        """Of the names of its files, where there are several pairs."""
        return "" if self.place == 2 else f" {self.place}"

    @property
    def picture(self) -> Path:
        """Of differences and changes."""
        return self.folder / f"changes{self.suffix}.png"

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """By the names of their CSV files."""
        return {"scenes": self.scenes, "devices": self.devices, _CLIPS: self.clips.set_index("filename")}

    def __str__(self) -> str:
        counts = self.clips[CHANGE].value_counts()
        return (
            f"{self.names[1]} against {self.names[0]}: {len(self.clips)} predictions change, "
            f"{counts.get(GAINED, 0)} are gained and {counts.get(LOST, 0)} lost."
        )


def pair_words(pair: Pair, write: Callable[[pd.DataFrame], str]) -> str:
    """A pair's tables as text or Markdown; of the clips that change the first."""
    more = len(pair.clips) - _CLIPS_SHOWN
    rest = [f"{more} more: {TABLES_FOLDER}/{_CLIPS}{pair.suffix}.csv"] if more > 0 else []
    shown = [
        write(table)
        for table in (pair.scenes, pair.devices, *([_first_clips(pair)] if len(pair.clips) else []))
    ]
    return "\n\n".join([str(pair), *shown, *rest])


def _first_clips(pair: Pair) -> pd.DataFrame:
    """The surest mistakes."""
    return pair.tables[_CLIPS].head(_CLIPS_SHOWN)


def text_of(remarks: Sequence[str], tables: Mapping[str, pd.DataFrame], pairs: Sequence[Pair]) -> str:
    """For the terminal."""
    return "\n\n".join(_parts_of(remarks, tables, pairs, as_text))


def _parts_of(
    remarks: Sequence[str],
    tables: Mapping[str, pd.DataFrame],
    pairs: Sequence[Pair],
    write: Callable[[pd.DataFrame], str],
) -> list[str]:
    """Remarks, tables, pairs."""
    return [
        " ".join([*remarks, _CORRECTED]),
        *map(write, tables.values()),
        *(pair_words(pair, write) for pair in pairs),
    ]


def pairs_note(remarks: Sequence[str], tables: Mapping[str, pd.DataFrame], pairs: Sequence[Pair]) -> str:
    """Markdown of as many pairs as a note of MLflow has room for."""
    parts = _parts_of(remarks, tables, pairs, as_markdown)
    lengths = accumulate(len(for_page(part, longest=LONGEST_NOTE)) + 2 for part in parts)
    fitting = [
        part for part, length in zip(parts, lengths, strict=True) if length + len(_OTHERS) <= LONGEST_NOTE
    ]
    return "\n\n".join([*fitting, *([_OTHERS] if len(fitting) < len(parts) else [])])


def page_of(
    names: Sequence[str],
    tables: Mapping[str, pd.DataFrame],
    pairs: Sequence[Pair],
    picture: Path,
    remarks: Sequence[str],
) -> Report:
    """The same as one HTML page."""
    first, *others = names
    macro = Section(
        "Macro averages and their differences",
        "Differences",
        blocks=(
            table_of(
                tables["accuracies"],
                "Macro-average accuracy in percent, with Student's t interval over runs.",
            ),
            table_of(
                tables["differences"],
                "Differences in points, with 95 % intervals over places; every pair is judged alone.",
            ),
            Picture(
                picture,
                "Blue stands, grey may be chance.",
                "Macro averages and their differences; the tables above hold them.",
            ),
        ),
    )
    return Report(
        title=f"{' and '.join(others)}, against {first}",
        lead=tuple(map(str, pairs)),
        warnings=tuple(remarks[:-1]),
        facts=(
            ("First model", first),
            *((f"Model {place}", other) for place, other in enumerate(others, 2)),
            ("Clips", remarks[-1]),
        ),
        sections=(macro, *map(_section_of, pairs)),
    )


def _section_of(pair: Pair) -> Section:
    """Of the page."""
    file = f"{TABLES_FOLDER}/{_CLIPS}{pair.suffix}.csv"
    shown = f"The surest mistakes among the clips that change; all are in {file}. Confidences in percent."
    return Section(
        str(pair).split(":")[0],
        pair.names[1],
        text=(str(pair), _CORRECTED),
        blocks=(
            Picture(
                pair.picture,
                "Differences with intervals; clips gained and lost.",
                "The tables below hold the figures.",
            ),
            table_of(
                pair.scenes, "By scene: accuracies in percent, difference in points, clips that change."
            ),
            table_of(pair.devices, "By recording device: the same with macro averages."),
            *([table_of(_first_clips(pair), shown)] if len(pair.clips) else []),
        ),
    )
