"""Pictures of how settings differ:
their macro averages, differences with intervals, and clips gained and lost."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adaptf.evaluation.changes import GAINED, LOST
from adaptf.evaluation.intervals import mean_interval
from adaptf.evaluation.scores import Runs, macro_accuracy
from adaptf.evaluation.tables import DIFFERENCE, HIGH, LOW, RUNS_HIGH, RUNS_LOW, STANDS
from adaptf.reports.figures import BLUE, GREY, as_written, save

_LONG_NAME = 30
_VERMILION = "#D55E00"


def accuracy_figure(settings: Mapping[str, Runs], differences: pd.DataFrame, path: Path) -> Path:
    """Macro averages of the settings with their runs,
    and beside them the differences that `difference_table` found.

    Without differences, that is with one setting, there is one panel.
    """
    panels = 2 if len(differences) else 1
    rows = max(len(settings), len(differences))
    figure = Figure(figsize=(5.5 * panels, 1.4 + 0.42 * rows), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _draw_accuracies(axes[0], settings)
    if panels == 2:
        _draw_differences(axes[1], differences)
    return save(figure, path)


def change_figure(tables: Sequence[pd.DataFrame], names: tuple[str, str], path: Path) -> Path:
    """A row of panels per table of `group_table`:
    its differences with their intervals, and its gained and lost clips."""
    heights = [len(table) + 2.5 for table in tables]
    figure = Figure(figsize=(10, 0.32 * sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(tables), 2, squeeze=False, height_ratios=heights)
    for (left, right), table in zip(panels, tables, strict=True):
        for row, (_, found) in enumerate(table.iterrows()):
            _draw_difference(left, row, found)
        left.set_xlabel(
            "difference in points, 95 % interval over places\n(blue: stands after Holm's correction; grey: "
            "may be chance)"
        )
        _draw_counts(right, table)
        for axis, names_shown in ((left, table.index), (right, [])):
            axis.axvline(0, color="black", linewidth=0.8)
            _name_rows(axis, map(str, names_shown), rows=len(table), room=0.6)
    figure.suptitle(as_written(f"{names[1]}, against {names[0]}"))
    return save(figure, path)


def _draw_accuracies(axis: Axes, settings: Mapping[str, Runs]) -> None:
    for row, runs in enumerate(settings.values()):
        values = [macro_accuracy(run) * 100 for run in runs]
        found = mean_interval(values)
        if found.runs > 1:
            axis.plot([found.low, found.high], [row, row], color=BLUE, linewidth=2)
            axis.plot(values, [row + 0.25] * len(values), "o", color=GREY, markersize=4)
        axis.plot(found.mean, row, "o", color=BLUE, markersize=8)
        _write_above(axis, found.mean, row, f"{found.mean:.1f}")
    several = any(len(runs) > 1 for runs in settings.values())
    legend = "\ngrey: runs; line: 95 % interval of their mean" if several else ""
    axis.set_xlabel(f"macro-average accuracy in percent{legend}")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axis.grid(axis="x", color="#EEEEEE")
    _name_rows(axis, settings, rows=len(settings), room=0.8)


def _draw_differences(axis: Axes, differences: pd.DataFrame) -> None:
    axis.axvline(0, color="black", linewidth=0.8)
    for row, (_, found) in enumerate(differences.iterrows()):
        colour = _draw_difference(axis, row, found)
        axis.plot([found[RUNS_LOW], found[RUNS_HIGH]], [row, row], color=colour, linewidth=2)
        _write_above(axis, found[DIFFERENCE], row, f"{found[DIFFERENCE]:+z.1f}")
    line = ", line: over runs" if differences[RUNS_LOW].notna().any() else ""
    axis.set_xlabel(
        f"difference in points (blue: stands; grey: may be chance)\nbar: 95 % interval over locations{line}"
    )
    axis.grid(axis="x", color="#EEEEEE")
    _name_rows(axis, map(_in_two_lines, map(str, differences.index)), rows=len(differences), room=0.8)


def _draw_difference(axis: Axes, row: int, found: pd.Series) -> str:
    """A dot on the bar of its interval; returns their colour."""
    colour = BLUE if found[STANDS] == "yes" else GREY
    axis.plot(
        [found[LOW], found[HIGH]], [row, row], color=colour, linewidth=7, solid_capstyle="butt", alpha=0.6
    )
    axis.plot(found[DIFFERENCE], row, "o", color=colour, markersize=6)
    return colour


def _draw_counts(axis: Axes, table: pd.DataFrame) -> None:
    rows = range(len(table))
    axis.barh(rows, table[GAINED], color=BLUE, height=0.7)
    axis.barh(rows, -table[LOST], color=_VERMILION, height=0.7)
    for row, (gained, lost) in enumerate(zip(table[GAINED], table[LOST], strict=True)):
        for count, side in ((gained, 1), (lost, -1)):
            align = "left" if side > 0 else "right"
            axis.annotate(
                str(count),
                (side * count, row),
                (3 * side, 0),
                textcoords="offset points",
                ha=align,
                va="center",
                size=8,
            )
    widest = max(1, int(table[[GAINED, LOST]].to_numpy().max()))
    axis.set_xlim(-1.2 * widest, 1.2 * widest)
    axis.set_xticks([])
    axis.set_xlabel("clips lost (left) and gained (right)")


def _in_two_lines(name: str) -> str:
    """A long 'second - first' leaves no room for the figures beside it."""
    return name.replace(" - ", "\n- ") if len(name) > _LONG_NAME else name


def _write_above(axis: Axes, x: float, y: float, text: str) -> None:
    """On white, so that no line runs through the figure."""
    white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    axis.annotate(text, (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=9, bbox=white)


def _name_rows(axis: Axes, names: Iterable[str], *, rows: int, room: float) -> None:
    """The first row on top, with `room` above it; without names none are written."""
    labels = [as_written(name) for name in names]
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(rows - 0.4, -room)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
