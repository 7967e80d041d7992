"""The report on a data set, what it holds and what was found in it:
for the terminal, for a run's page and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import fill

import pandas as pd

from adaptf.data.clips import TEST, TRAIN, VALIDATION
from adaptf.data.errors import SHOWN
from adaptf.data.sets.findings import Finding, find
from adaptf.evaluation import tables

_WIDTH = 128
"""Characters of a terminal's line."""
_GAP = "    "
TOTAL = "all"
_TEXT_ROWS, _MARKDOWN_ROWS = 40, 25
"""Rows of a table of counts.
A run's note holds 8,000 characters, of which three tables of 25 rows take 4,000."""
_MARKDOWN_NAMES = 3
_DEVICES_SHOWN = 12
_LABELS_SHOWN = 10
"""So many of the most and of the least frequent labels."""
FINDINGS = "findings.csv"


@dataclass(frozen=True)
class DataReport:
    """What the user of a data set should know of it before training."""

    title: str
    counts: Mapping[str, pd.DataFrame]
    """By what its rows are: clips per split (columns)."""
    hours: float
    """Of audio in the clips, without padding."""
    findings: tuple[Finding, ...] = ()
    missing: tuple[str, ...] = ()
    """Files that the data set's table names and the folder lacks."""
    unreadable: tuple[str, ...] = ()
    """'x.wav: why' for the files that hold no usable audio."""
    notes: tuple[str, ...] = ()
    """Lines of whatever else was done, such as '3 files cut into 180 clips'."""

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        """The findings, and the files that were left out."""
        left_out = (
            Finding(
                "missing", self.missing, "named by the data set's table, but there is no such file: left out"
            ),
            Finding("unreadable", self.unreadable, "no clip could be read from these files: left out"),
        )
        return (*self.findings, *(finding for finding in left_out if finding.files))


def make_report(
    table: pd.DataFrame,
    levels: pd.DataFrame,
    *,
    title: str,
    clip_seconds: float,
    class_names: Sequence[str] = (),
    missing: Sequence[str] = (),
    unreadable: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> DataReport:
    """The report on a clip table, or on one of AudioSet, whose `labels` are places in `class_names`.

    `levels` has a row for each row of the table, as `findings.find` takes it.
    """
    notes = tuple(notes)
    if "labels" in table.columns:
        labels = count_labels(table, class_names)
        counts = {"": _count_clips(table, pd.Series("clips", index=table.index)), **_extreme_labels(labels)}
        without = int((labels[TOTAL] == 0).sum())
        notes += (f"{without} of {len(labels)} labels have no clip",) * bool(without)
    else:
        groups = ["scene", "device"] + ["city"] * bool(
            "city" in table.columns and (table["city"] != "").any()
        )
        counts = {group: _count_clips(table, table[group].replace("", "(unknown)")) for group in groups}
        counts |= _validation_clips(table)
    return DataReport(
        title=title,
        counts=counts,
        hours=float(levels["seconds"].clip(upper=clip_seconds).sum()) / 3600,
        findings=tuple(find(table, levels, clip_seconds=clip_seconds)),
        missing=tuple(missing),
        unreadable=tuple(unreadable),
        notes=notes,
    )


def _count_clips(table: pd.DataFrame, group: pd.Series) -> pd.DataFrame:
    """Clips per group (rows, the last one for all of them) and split (columns);
    `group` has a value per clip."""
    counts = _with_total(pd.crosstab(group, table["split"]))
    return counts if len(counts) == 1 else pd.concat([counts, counts.sum().to_frame(TOTAL).T])


def _validation_clips(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Validation clips per scene (rows, the last one for all of them) and device (columns): how few there are
    of some, which no sum tells.
    Empty where there are none, and where there are too many devices for a table."""
    shown = table[table["split"] == VALIDATION]
    devices = sorted(table.loc[table["split"] != TEST, "device"].unique())
    if shown.empty or len(devices) > _DEVICES_SHOWN:
        return {}
    counts = pd.crosstab(shown["scene"], shown["device"])
    counts = counts.reindex(index=sorted(table["scene"].unique()), columns=devices, fill_value=0)
    counts = counts.rename_axis(index=None, columns=None)
    return {"validation clips": pd.concat([counts, counts.sum().to_frame(TOTAL).T])}


def count_labels(table: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """Clips per label (rows, the most frequent first) and split (columns).
    A clip of several labels counts for each."""
    labels = (
        table[["labels", "split"]]
        .assign(label=table["labels"].str.split())
        .explode("label", ignore_index=True)
        .dropna()
    )
    counts = pd.crosstab(labels["label"].astype(int), labels["split"]).reindex(
        range(len(class_names)), fill_value=0
    )
    return _with_total(counts.set_axis(list(class_names))).sort_values(TOTAL, ascending=False, kind="stable")


def _with_total(counts: pd.DataFrame) -> pd.DataFrame:
    """Splits in the order of their use, and their sum."""
    splits = [split for split in (TRAIN, VALIDATION, TEST) if split in counts.columns]
    return counts[splits].assign(**{TOTAL: counts.sum(axis=1)}).rename_axis(index=None, columns=None)


def _extreme_labels(labels: pd.DataFrame) -> dict[str, pd.DataFrame]:
    present = labels[labels[TOTAL] > 0]
    if len(present) <= 2 * _LABELS_SHOWN:
        return {"label": present}
    return {
        "most frequent label": present.head(_LABELS_SHOWN),
        "least frequent label": present.tail(_LABELS_SHOWN)[::-1],
    }


def as_text(report: DataReport) -> str:
    """For the terminal: lines of at most WIDTH characters."""
    lines = [fill(f"{report.title}, {_duration(report.hours)}", _WIDTH), ""]
    lines += [_side_by_side([_text_table(name, counts) for name, counts in report.counts.items()]), ""]
    lines += [*(fill(note, _WIDTH) for note in report.notes), ""] if report.notes else []
    lines += [line for finding in report.all_findings for line in _text_finding(finding)]
    lines.append(_ending(report))
    return "\n".join(_cut(line) for line in "\n".join(lines).splitlines())


def as_markdown(report: DataReport) -> str:
    """For the page of a run: short, with a few names for each finding."""
    lines = [f"**{report.title}**, {_duration(report.hours)}", ""]
    for name, counts in report.counts.items():
        lines += [
            tables.as_markdown(_short(counts, _MARKDOWN_ROWS).rename_axis(name)),
            *_more(counts[:-1], _MARKDOWN_ROWS),
            "",
        ]
    lines += [f"- {note}" for note in report.notes]
    lines += [
        f"- **{finding.name}: {len(finding.files)}** ({finding.meaning}): {_names(finding)}"
        for finding in report.all_findings
    ]
    lines += ["", _ending(report)]
    return "\n".join(lines)


def findings_table(report: DataReport) -> pd.DataFrame:
    """Every name of every finding, to be written as FINDINGS:
    finding, filename (or whatever `Finding.files` holds)."""
    rows = [(finding.name, name) for finding in report.all_findings for name in finding.files]
    return pd.DataFrame(rows, columns=["finding", "filename"])


def _ending(report: DataReport) -> str:
    return f"All names are in {FINDINGS}." if report.all_findings else "Nothing odd was found."


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours of audio" if hours >= 1 else f"{hours * 60:.1f} minutes of audio"


def _text_table(name: str, counts: pd.DataFrame) -> list[str]:
    text = tables.as_text(_short(counts, _TEXT_ROWS).rename_axis(columns=name))
    return [*text.splitlines(), *_more(counts[:-1], _TEXT_ROWS)]


def _short(counts: pd.DataFrame, rows: int) -> pd.DataFrame:
    """The first rows and the last one, which is the sum."""
    return counts if len(counts) <= rows + 1 else pd.concat([counts[:rows], counts[-1:]])


def _more(rows: pd.DataFrame | Sequence[str], shown: int) -> list[str]:
    return [f"... and {len(rows) - shown} more"] if len(rows) > shown else []


def _text_finding(finding: Finding) -> list[str]:
    names = [*finding.files[:SHOWN], *_more(finding.files, SHOWN)]
    return [f"{finding.name}: {len(finding.files)} ({finding.meaning})", *(f"  {name}" for name in names)]


def _names(finding: Finding) -> str:
    return ", ".join(
        [f"`{_cut(name)}`" for name in finding.files[:_MARKDOWN_NAMES]]
        + _more(finding.files, _MARKDOWN_NAMES)
    )


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else line[: _WIDTH - 4] + " ..."


def _side_by_side(blocks: Sequence[list[str]]) -> str:
    """Blocks of lines beside each other as far as they fit WIDTH, the next ones below."""
    rows = [blocks[0]]
    for block in blocks[1:]:
        width = max(map(len, rows[-1]))
        joined = [
            f"{left:{width}}{_GAP}{right}" for left, right in zip_longest(rows[-1], block, fillvalue="")
        ]
        if max(map(len, joined)) <= _WIDTH:
            rows[-1] = joined
        else:
            rows.append(block)
    return "\n\n".join("\n".join(line.rstrip() for line in row) for row in rows)
