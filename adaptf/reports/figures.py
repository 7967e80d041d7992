"""Pictures, written as PNG files. Colours are those that a colour-blind reader can tell apart."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#B0B0B0"
DEVICE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")

DEVICES_SHOWN, _DEVICES_PER_ROW = 15, 5


def as_written(name: str) -> str:
    """A name as a picture shows it: a dollar would begin a formula."""
    return name.replace("_", " ").replace("$", r"\$")


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def confusion_figure(matrices: Mapping[str, pd.DataFrame], path: Path) -> Path:
    """Row-normalised confusion matrices of several settings side by side."""
    figure = Figure(figsize=(6.4 * len(matrices), 6.4), layout="constrained")
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axis, (title, matrix) in zip(axes, matrices.items(), strict=True):
        _draw_confusion(axis, matrix, title)
    return save(figure, path)


def _draw_confusion(axis: Axes, matrix: pd.DataFrame, title: str) -> None:
    shares = _shares(matrix)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axis.set_title(as_written(title))
    labels = [as_written(name) for name in matrix.columns]
    axis.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(labels)), labels)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true scene")
    for row in range(len(labels)):
        for column in range(len(labels)):
            share = shares[row, column]
            if share >= 0.5:
                colour = "white" if share > 55 else "black"
                axis.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=8)


def _shares(matrix: pd.DataFrame) -> NDArray[np.float64]:
    """Percent of each true scene's clips."""
    shares: NDArray[np.float64] = matrix.div(matrix.sum(axis=1).clip(lower=1), axis=0).to_numpy() * 100
    return shares


def _macro_average(matrix: pd.DataFrame) -> float:
    """Mean of the diagonal's shares, in percent, over the scenes that have clips."""
    return float(np.diag(_shares(matrix))[matrix.sum(axis=1).to_numpy() > 0].mean())


def device_confusions_figure(matrices: Mapping[str, pd.DataFrame], path: Path) -> Path:
    """Small row-normalised confusion matrices, one per device, with its macro average;
    of many those with the most clips."""
    most = sorted(matrices, key=lambda device: -int(matrices[device].to_numpy().sum()))[:DEVICES_SHOWN]
    shown = {device: matrix for device, matrix in matrices.items() if device in most}
    columns = min(len(shown), _DEVICES_PER_ROW)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.1 * columns + 1.3, 2.4 * rows + 1.1), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis, (device, matrix) in zip(cells.flat, shown.items(), strict=False):
        axis.imshow(_shares(matrix), cmap="Blues", vmin=0, vmax=100)
        axis.set_title(as_written(f"{device}: {_macro_average(matrix):.1f} %"), fontsize=10)
        labels = [as_written(name) for name in matrix.columns]
        axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
        axis.set_yticks(range(len(labels)), labels, fontsize=7)
    for axis in cells.flat[len(shown) :]:
        axis.set_visible(False)
    for axis in cells.flat[max(0, len(shown) - columns) : len(shown)]:
        axis.tick_params(labelbottom=True)  # also where the row below is not full
    figure.supxlabel("predicted", fontsize=9)
    figure.supylabel("true scene", fontsize=9)
    return save(figure, path)


def _draw_bars(axis: Axes, table: pd.DataFrame) -> None:
    """Groups of bars: a group per row, a colour per column."""
    width = 0.8 / len(table.columns)
    for place, (name, values) in enumerate(table.items()):
        positions = [row + (place - (len(table.columns) - 1) / 2) * width for row in range(len(table))]
        axis.bar(
            positions,
            values,
            width,
            label=as_written(str(name)),
            color=DEVICE_COLOURS[place % len(DEVICE_COLOURS)],
        )
    axis.set_xticks(range(len(table)), [as_written(str(name)).replace(" ", "\n") for name in table.index])


def device_figure(table: pd.DataFrame, path: Path) -> Path:
    """Accuracy in percent per device (rows) and setting (columns)."""
    figure = Figure(figsize=(max(7, 0.9 * len(table)), 4.2), layout="constrained")
    axis = figure.subplots()
    _draw_bars(axis, table)
    axis.set_ylabel("macro-average accuracy in percent")
    axis.set_xlabel("")
    axis.set_ylim(0, 100)
    axis.legend(title="", frameon=False, ncols=len(table.columns), loc="upper center")
    axis.spines[["top", "right"]].set_visible(False)
    return save(figure, path)
