"""Pictures of what another model changes: differences with intervals, and clips gained and lost, per scene and per device."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaptf.evaluation.changes import GAINED, LOST
from adaptf.evaluation.tables import DIFFERENCE, HIGH, LOW, STANDS
from adaptf.reports.figures import BLUE, GREY, as_written, save

VERMILION = "#D55E00"


def change_figure(tables: Sequence[pd.DataFrame], names: tuple[str, str], path: Path) -> Path:
    """A row of panels per table of `group_table`: its differences with their intervals, and its gained and lost clips."""
    heights = [len(table) + 2.5 for table in tables]
    figure = Figure(figsize=(10, 0.32 * sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(tables), 2, squeeze=False, height_ratios=heights)
    for (left, right), table in zip(panels, tables, strict=True):
        _draw_differences(left, table)
        _draw_counts(right, table)
        for axis, names_shown in ((left, table.index), (right, [])):
            _name_rows(axis, names_shown, rows=len(table))
    figure.suptitle(as_written(f"{names[1]}, against {names[0]}"))
    return save(figure, path)


def _draw_differences(axis: Axes, table: pd.DataFrame) -> None:
    for row, (_, found) in enumerate(table.iterrows()):
        colour = BLUE if found[STANDS] == "yes" else GREY
        axis.plot([found[LOW], found[HIGH]], [row, row], color=colour, linewidth=7, solid_capstyle="butt", alpha=0.6)
        axis.plot(found[DIFFERENCE], row, "o", color=colour, markersize=6)
    axis.set_xlabel(
        "difference in points, 95 % interval over places\n(blue: stands after Holm's correction; grey: may be chance)"
    )


def _draw_counts(axis: Axes, table: pd.DataFrame) -> None:
    rows = range(len(table))
    axis.barh(rows, table[GAINED], color=BLUE, height=0.7)
    axis.barh(rows, -table[LOST], color=VERMILION, height=0.7)
    for row, (gained, lost) in enumerate(zip(table[GAINED], table[LOST], strict=True)):
        for count, side in ((gained, 1), (lost, -1)):
            align = "left" if side > 0 else "right"
            axis.annotate(
                str(count), (side * count, row), (3 * side, 0), textcoords="offset points", ha=align, va="center", size=8
            )
    widest = max(1, int(table[[GAINED, LOST]].to_numpy().max()))
    axis.set_xlim(-1.2 * widest, 1.2 * widest)
    axis.set_xticks([])
    axis.set_xlabel("clips lost (left) and gained (right)")


def _name_rows(axis: Axes, names: Iterable[str], *, rows: int) -> None:
    """The first row on top; both panels of a table have the same rows."""
    labels = [as_written(str(name)) for name in names]
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(rows - 0.4, -0.6)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
