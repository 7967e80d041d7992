"""Pictures of calibration: reliability diagrams, and accuracy where unsure clips are left out."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adaptf.evaluation.calibration import ACCURACY, CONFIDENCE
from adaptf.reports.figures import BLUE, DEVICE_COLOURS, GREY, ORANGE, as_written, save

_PANELS_PER_ROW = 4
_LINES = ("-", "--", "-.", ":")
"""With the colours, so that settings are told apart without them."""


def reliability_figure(tables: pd.DataFrame, path: Path) -> Path:
    """A panel per setting of `reliability_tables`:
    accuracy over confidence, and below how many clips are that sure."""
    settings = list(dict.fromkeys(tables.index))
    columns = min(len(settings), _PANELS_PER_ROW)
    rows = -(-len(settings) // columns)
    figure = Figure(figsize=(max(4.0, 2.9 * columns), 4.1 * rows), layout="constrained")
    heights = [3.2, 1] * rows
    cells = figure.subplots(
        2 * rows, columns, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights}
    )
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        upper, lower = cells[2 * row][column], cells[2 * row + 1][column]
        if place < len(settings):
            table = tables.loc[[settings[place]]]
            _draw_reliability(upper, table)
            _draw_clips_per_bin(lower, table)
            upper.set_title(as_written(settings[place]), fontsize=11)
            for axis, label in ((upper, "accuracy of these clips in %"), (lower, "clips")):
                axis.set_ylabel(label if column == 0 else "")
        else:
            upper.set_visible(False)
            lower.set_visible(False)
    return save(figure, path)


def _draw_reliability(axis: Axes, table: pd.DataFrame) -> None:
    """A dot per bin, with the gap to the diagonal on which confidence and accuracy are the same."""
    used = table[table["clips"] > 0]
    sure, right = used[CONFIDENCE] * 100, used[ACCURACY] * 100
    axis.plot([0, 100], [0, 100], "--", color=GREY, linewidth=1, zorder=1)
    axis.vlines(sure, sure, right, color=ORANGE, linewidth=3, zorder=2)
    axis.plot(sure, right, "o", color=BLUE, markersize=5, zorder=3)
    axis.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    axis.grid(color="#EEEEEE")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_clips_per_bin(axis: Axes, table: pd.DataFrame) -> None:
    width = (table["high"] - table["low"]) * 100
    axis.bar(table["low"] * 100, table["clips"], width * 0.92, align="edge", color=BLUE)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=2, integer=True))
    axis.tick_params(labelbottom=True)
    axis.set_xlabel("confidence in %")
    axis.spines[["top", "right"]].set_visible(False)


def rejection_figure(table: pd.DataFrame, path: Path) -> Path:
    """Accuracy of the clips answered over their share, a line per setting (columns of `rejection_table`)."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axis = figure.subplots()
    for place, (setting, accuracy) in enumerate(table.items()):
        colour, line = DEVICE_COLOURS[place % len(DEVICE_COLOURS)], _LINES[place % len(_LINES)]
        axis.plot(table.index, accuracy, line, color=colour, linewidth=2, label=as_written(str(setting)))
    axis.set(xlim=(100, 0), ylim=(min(table.min().min() - 5, 95), 101))
    axis.set_xlabel("share of the clips that are answered in %, the surest ones (all on the left)")
    axis.set_ylabel("accuracy of these in %")
    axis.grid(color="#EEEEEE")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, handlelength=3.5, loc="best")
    return save(figure, path)
