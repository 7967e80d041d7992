"""Pictures of a data set before training:
how many clips of what there are, and what one clip of each looks like."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from adaptf.audio.kaldi_mel import hz_to_mel
from adaptf.audio.logmel import LogMel
from adaptf.data.clips import TEST, TRAIN, VALIDATION
from adaptf.reports.data_report import TOTAL, count_labels
from adaptf.reports.figures import BLUE, GREY, as_written, save

_ReadClips = Callable[[NDArray[np.int64]], Tensor]
"""Rows of the clip table, counted from 0 -> waveforms (rows, samples)."""

COUNT_SCENES, COUNT_DEVICES = 40, 20
_MOSAIC_SCENES, _MOSAIC_DEVICES = 16, 12
_LABEL_BARS = 40
_FEW_CLIPS = 10
"""A label of fewer clips is hardly learnt."""
_NAME_CHARACTERS = 32
_INCHES_PER_CHARACTER = 0.075

_MOSAIC_BANDS = 128
"""A quarter of the network's, more than the picture has pixels for."""
_CLIPS_AT_ONCE = 16
"""The log-mel is taken of so many together, for the sake of memory."""
_CAPTION_INCHES = 3.2
"""A picture of one clip is wide enough for what is written below it."""
_COLOUR_PERCENTILES = (1.0, 99.8)
"""Of all that is shown, where the colours begin and end: one loud click must not darken everything else."""
_FREQUENCIES_KHZ = (0.5, 2.0, 8.0)


def clips_figure(table: pd.DataFrame, path: Path) -> Path:
    """Clips per scene (rows) and device (columns), a panel per split;
    logarithmic colours, because device a has most clips."""
    scenes, devices = (
        _most_frequent(table["scene"], COUNT_SCENES),
        _most_frequent(table["device"], COUNT_DEVICES),
    )
    shown = table[table["scene"].isin(scenes) & table["device"].isin(devices)]
    splits = [split for split in (TRAIN, VALIDATION, TEST) if (shown["split"] == split).any()]
    panels = [_counts(shown[shown["split"] == split], scenes) for split in splits]
    widths = [max(2.0, 0.42 * len(counts.columns)) for counts in panels]
    height = 0.28 * len(scenes) + _inches(devices) + 0.6
    figure = Figure(figsize=(sum(widths) + _inches(scenes) + 0.4, height), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True, width_ratios=widths)[0]
    norm = LogNorm(vmin=1, vmax=max(10, *(counts.to_numpy().max() for counts in panels)))
    for axis, split, counts in zip(axes, splits, panels, strict=True):
        _draw_counts(axis, counts, norm)
        axis.set_title(f"{split}: {counts.to_numpy().sum()} clips", fontsize=10)
    figure.supxlabel(_left_out(table, scenes, devices), fontsize=9)
    return save(figure, path)


def _counts(clips: pd.DataFrame, scenes: list[str]) -> pd.DataFrame:
    return pd.crosstab(clips["scene"], clips["device"]).reindex(scenes, fill_value=0)


def _draw_counts(axis: Axes, counts: pd.DataFrame, norm: LogNorm) -> None:
    values = counts.to_numpy()
    axis.imshow(np.ma.masked_equal(values, 0), cmap="Blues", norm=norm, aspect="auto")
    axis.set_xticks(
        range(len(counts.columns)), _names(counts.columns), rotation=90 if _longest(counts.columns) > 4 else 0
    )
    axis.set_yticks(range(len(counts)), _names(counts.index))
    axis.tick_params(length=0, labelsize=9)
    axis.spines[:].set_visible(False)
    for (row, column), count in np.ndenumerate(values):
        colour = GREY if count == 0 else "white" if norm(count) > 0.6 else "black"
        text = str(count) if count < 100_000 else f"{count / 1000:.0f}k"
        axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)


def mosaic_figure(table: pd.DataFrame, read: _ReadClips, path: Path, *, sample_rate: int) -> Path:
    """Log-mel of one clip per scene (rows) and device (columns), the first by file name;
    a pair without clips stays blank."""
    scenes, devices = (
        _most_frequent(table["scene"], _MOSAIC_SCENES),
        _most_frequent(table["device"], _MOSAIC_DEVICES),
    )
    clips = _by_name(table).drop_duplicates(["scene", "device"])
    clips = clips[clips["scene"].isin(scenes) & clips["device"].isin(devices)]
    steep = _longest(devices) > 12
    left, top = _inches(scenes), _inches(devices) if steep else 0.3
    figure, cells = _grid(len(scenes), len(devices), cell=(1.0, 0.75), gap=0.06, left=left, top=top)
    columns, rows = [
        list(map(names.index, clips[name])) for name, names in (("device", devices), ("scene", scenes))
    ]
    used = [cells[row][column] for column, row in zip(columns, rows, strict=True)]
    last_column, last_row = max(zip(columns, rows, strict=True))
    draw_log_mels(
        used, read(clips.index.to_numpy(np.int64)), sample_rate, scales=[cells[last_row][last_column]]
    )
    for row, scene in zip(cells, _names(scenes), strict=True):
        row[0].set_ylabel(scene, rotation=0, ha="right", va="center", fontsize=9)
    for cell, device in zip(cells[0], _names(devices), strict=True):
        cell.set_title(device, rotation=90 if steep else 0, fontsize=9, pad=4)
    _caption(figure, "Log-mel of one clip per scene and device", _left_out(table, scenes, devices))
    return save(figure, path)


def labels_figure(table: pd.DataFrame, path: Path, *, class_names: Sequence[str]) -> Path:
    """Clips of the most frequent labels of AudioSet as bars, and how many labels have too few."""
    counts = count_labels(table, class_names)[TOTAL]
    shown = counts[counts > 0].head(_LABEL_BARS)
    figure = Figure(figsize=(8, 0.19 * len(shown) + 0.9), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh(range(len(shown)), shown, color=BLUE)
    axis.bar_label(bars, fontsize=8, padding=2)
    axis.set_yticks(range(len(shown)), _names(shown.index), fontsize=8)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel(
        f"clips; {(counts < _FEW_CLIPS).sum()} of {len(counts)} labels have fewer than {_FEW_CLIPS}"
    )
    axis.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


def _by_name(table: pd.DataFrame) -> pd.DataFrame:
    """Sorted by file name; the index is the row in the table."""
    return table.reset_index(drop=True).sort_values("filename", kind="stable")


def _most_frequent(names: pd.Series, count: int) -> list[str]:
    """Those with the most clips, in alphabetical order."""
    return sorted(names.value_counts().index[:count])


def _left_out(table: pd.DataFrame, scenes: list[str], devices: list[str]) -> str:
    """'4 scenes and 3 devices with fewer clips are not shown', or ''."""
    more = {
        "scene": table["scene"].nunique() - len(scenes),
        "device": table["device"].nunique() - len(devices),
    }
    parts = [f"{count} {name}{'s' * (count > 1)}" for name, count in more.items() if count]
    return (
        f"{' and '.join(parts)} with fewer clips {'is' if sum(more.values()) == 1 else 'are'} not shown"
        if parts
        else ""
    )


def _names(names: Iterable[str]) -> list[str]:
    """As they are written in a picture."""
    short = [name if len(name) <= _NAME_CHARACTERS else name[: _NAME_CHARACTERS - 1] + "…" for name in names]
    return [as_written(name) for name in short]


def _longest(names: Iterable[str]) -> int:
    return min(_NAME_CHARACTERS, max(map(len, names)))


def _inches(names: Iterable[str]) -> float:
    return 0.2 + _INCHES_PER_CHARACTER * _longest(names)


def _grid(
    rows: int, columns: int, *, cell: tuple[float, float], gap: float, left: float, top: float
) -> tuple[Figure, list[list[Axes]]]:
    """Empty cells (rows, columns) of a new figure; sizes in inches. Laid out by hand:
    an engine takes long for 192 cells."""
    width, height = columns * (cell[0] + gap) - gap, rows * (cell[1] + gap) - gap
    right, bottom = max(0.6, _CAPTION_INCHES - left - width), 0.5
    whole_width, whole_height = left + width + right, top + height + bottom
    places = {
        "left": left / whole_width,
        "right": 1 - right / whole_width,
        "bottom": bottom / whole_height,
        "top": 1 - top / whole_height,
        "wspace": gap / cell[0],
        "hspace": gap / cell[1],
    }
    figure = Figure(figsize=(whole_width, whole_height))
    cells = figure.subplots(rows, columns, squeeze=False, gridspec_kw=places).tolist()
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.patch.set_visible(False)  # it would cover its neighbour's scale
    return figure, cells


def draw_log_mels(
    cells: Sequence[Axes],
    waveforms: Tensor,
    sample_rate: int,
    *,
    scales: Sequence[Axes],
    interpolation: str | None = None,
) -> None:
    """The log-mel of a clip (clips, samples) per cell, all in the same colours;
    scales are written at some of the cells."""
    logmel = LogMel(bands=_MOSAIC_BANDS, sample_rate=sample_rate)
    images = torch.cat([logmel(clips)[:, 0] for clips in waveforms.split(_CLIPS_AT_ONCE)]).numpy()
    darkest, brightest = np.percentile(images, _COLOUR_PERCENTILES)
    for cell, image in zip(cells, images, strict=True):
        colours = {"cmap": "magma", "vmin": darkest, "vmax": brightest, "interpolation": interpolation}
        cell.imshow(image, origin="lower", aspect="auto", extent=(0, 1, 0, 1), **colours)
    for cell in scales:
        draw_scale(cell, seconds=waveforms.shape[1] / sample_rate, highest_hz=sample_rate / 2)


def draw_scale(cell: Axes, *, seconds: float, highest_hz: float) -> None:
    """Frequency on the right, time below."""
    khz = [frequency for frequency in _FREQUENCIES_KHZ if frequency * 1000 < highest_hz]
    heights = hz_to_mel(torch.tensor(khz) * 1000) / hz_to_mel(torch.tensor(highest_hz))
    cell.yaxis.tick_right()
    cell.set_yticks(heights.tolist(), [f"{frequency:g} kHz" for frequency in khz], fontsize=7)
    cell.set_xticks([0, 1], ["0", f"{seconds:g} s"], fontsize=7)
    cell.tick_params(length=2, pad=1)


def _caption(figure: Figure, *sentences: str) -> None:
    """Below the cells, on the left."""
    figure.text(0.01, 0.01, "\n".join(filter(None, sentences)), fontsize=8, va="bottom")
