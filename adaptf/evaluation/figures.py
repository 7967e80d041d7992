"""Pictures, written as PNG files. Colours are those that a colour-blind reader can tell apart."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, GREY = "#0072B2", "#B0B0B0"
DEVICE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def confusion_figure(matrices: Mapping[str, pd.DataFrame], path: Path) -> Path:
    """Row-normalised confusion matrices of several settings side by side."""
    figure = Figure(figsize=(6.4 * len(matrices), 6.2), layout="constrained")
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axis, (title, matrix) in zip(axes, matrices.items(), strict=True):
        _draw_confusion(axis, matrix, title)
    return save(figure, path)


def _draw_confusion(axis: Axes, matrix: pd.DataFrame, title: str) -> None:
    shares = matrix.div(matrix.sum(axis=1).clip(lower=1), axis=0).to_numpy() * 100
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axis.set_title(title)
    labels = [name.replace("_", " ") for name in matrix.columns]
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


def draw_bars(axis: Axes, table: pd.DataFrame) -> None:
    """Groups of bars: a group per row, a colour per column."""
    width = 0.8 / len(table.columns)
    for place, (name, values) in enumerate(table.items()):
        positions = [row + (place - (len(table.columns) - 1) / 2) * width for row in range(len(table))]
        axis.bar(positions, values, width, label=str(name), color=DEVICE_COLOURS[place % len(DEVICE_COLOURS)])
    axis.set_xticks(range(len(table)), [str(name).replace(" ", "\n") for name in table.index])


def device_figure(table: pd.DataFrame, path: Path) -> Path:
    """Accuracy in percent per device (rows) and setting (columns)."""
    figure = Figure(figsize=(max(7, 0.9 * len(table)), 4.2), layout="constrained")
    axis = figure.subplots()
    draw_bars(axis, table)
    axis.set_ylabel("macro-average accuracy in percent")
    axis.set_xlabel("")
    axis.set_ylim(0, 100)
    axis.legend(title="", frameon=False, ncols=len(table.columns), loc="upper center")
    axis.spines[["top", "right"]].set_visible(False)
    return save(figure, path)
