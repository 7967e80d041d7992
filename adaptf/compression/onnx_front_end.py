"""The log-mel in ONNX by products of small matrices alone, which every runtime has and is fast at.

ONNX's own DFT takes ONNX Runtime 17 times as long (docs/export.md), and many devices have none; one
product with the whole matrix of the transform would take a file of 50 MB. A transform of rows x columns
samples is one over the rows, a turn of each value, and one over the columns (Gentleman and Sande, 1966).
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adaptf.audio.logmel import LOG_OFFSET, SCALE, SHIFT, LogMel, banded_blocks
from adaptf.compression.onnx_form import BATCH, LOG_MEL, onnx_model

if TYPE_CHECKING:
    from onnx import ModelProto

WAVEFORM = "waveform"
"""Name of the input (batch, samples)."""
_BANDS_PER_BLOCK = 16
"""32 take twice the bytes, 8 twice the nodes."""

_EMPHASIS = """
later = Slice (waveform, one, samples, one)
earlier = Slice (waveform, zero, last_sample, one)
decayed = Mul (earlier, preemphasis)
emphasized = Sub (later, decayed)
mirrored = Pad <mode = "reflect"> (emphasized, margins)
padded = Pad (mirrored, zeros_behind)
long_enough = Slice (padded, zero, padded_samples, one)
hops = Reshape (long_enough, shape_of_hops)
"""
_SPECTRUM = """
frames = Slice (joined, zero, frame_samples, two)
windowed = Mul (frames, window)
folded = Reshape (windowed, shape_of_rows)
by_column = Transpose <perm = [0, 1, 3, 2]> (folded)
row_real = MatMul (by_column, row_cosines)
row_imaginary = MatMul (by_column, row_sines)
real_by_cosine = Mul (row_real, turn_cosines)
imaginary_by_sine = Mul (row_imaginary, turn_sines)
turned_real = Sub (real_by_cosine, imaginary_by_sine)
real_by_sine = Mul (row_real, turn_sines)
imaginary_by_cosine = Mul (row_imaginary, turn_cosines)
turned_imaginary = Add (real_by_sine, imaginary_by_cosine)
column_real = MatMul (column_cosines, turned_real)
column_turned_real = MatMul (column_sines, turned_imaginary)
real = Sub (column_real, column_turned_real)
column_imaginary = MatMul (column_cosines, turned_imaginary)
column_turned_imaginary = MatMul (column_sines, turned_real)
imaginary = Add (column_imaginary, column_turned_imaginary)
real_power = Mul (real, real)
imaginary_power = Mul (imaginary, imaginary)
folded_power = Add (real_power, imaginary_power)
power = Reshape (folded_power, shape_of_power)
"""
_LOGARITHM = """
audible = Add (mel, log_offset)
logarithm = Log (audible)
shifted = Add (logarithm, shift)
scaled = Div (shifted, scale)
by_band = Transpose <perm = [0, 2, 1]> (scaled)
log_mel = Unsqueeze (by_band, one)
"""


def onnx_front_end(log_mel: LogMel, clip_samples: int) -> "ModelProto":
    """Waveform (batch, clip_samples) -> log-mel (batch, 1, bands, frames), as `LogMel` computes it."""
    from onnx import parser

    frames = log_mel.frames(clip_samples)
    constants = _frame_constants(log_mel, clip_samples) | _transform_constants(log_mel, frames)
    constants |= {"log_offset": _single(LOG_OFFSET), "shift": _single(SHIFT), "scale": _single(SCALE)}
    in_hops = math.ceil(constants["frame_samples"].item() / log_mel.hop_samples)
    lines = [*_lines(_EMPHASIS), *_joined_hops(in_hops, frames, constants), *_lines(_SPECTRUM)]
    lines += [*_mel_blocks(log_mel, constants), *_lines(_LOGARITHM)]
    nodes = [parser.parse_node(line) for line in lines]
    shape = [BATCH, 1, log_mel.bands, frames]
    return onnx_model(nodes, constants, {WAVEFORM: [BATCH, clip_samples]}, {LOG_MEL: shape})


def _lines(program: str) -> list[str]:
    return program.strip().splitlines()


def _whole(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def _single(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def _rows_and_columns(n_fft: int) -> tuple[int, int]:
    """Whose product is `n_fft`, as near to each other as can be: 64 x 64 of 4096."""
    rows = next(number for number in range(math.isqrt(n_fft), 0, -1) if n_fft % number == 0)
    return rows, n_fft // rows


def _frame_constants(log_mel: LogMel, samples: int) -> dict[str, NDArray[Any]]:
    """Of a waveform's way to its frames, which are whole rows: zeros lie behind the window."""
    _, columns = _rows_and_columns(log_mel.n_fft)
    frames, hop, margin = log_mel.frames(samples), log_mel.hop_samples, log_mel.window_samples // 2
    rows_heard = math.ceil(log_mel.window_samples / columns)
    frame_samples = rows_heard * columns
    hops = frames - 1 + math.ceil(frame_samples / hop)
    window = np.zeros(frame_samples, np.float32)
    window[: log_mel.window_samples] = log_mel.window.numpy()
    missing = max(0, hops * hop - (samples - 1 + 2 * margin))
    return {
        "zero": _whole(0),
        "one": _whole(1),
        "two": _whole(2),
        "samples": _whole(samples),
        "last_sample": _whole(samples - 1),
        "preemphasis": _single(log_mel.preemphasis),
        "margins": _whole(0, margin, 0, margin),
        "zeros_behind": _whole(0, 0, 0, missing),
        "padded_samples": _whole(hops * hop),
        "shape_of_hops": _whole(0, hops, hop),
        "frame_samples": _whole(frame_samples),
        "window": window,
        "shape_of_rows": _whole(0, frames, rows_heard, columns),
    }


def _transform_constants(log_mel: LogMel, frames: int) -> dict[str, NDArray[Any]]:
    """Sample n = columns * row + column of a frame, bin k = rows * high + low, of which a half is enough."""
    rows, columns = _rows_and_columns(log_mel.n_fft)
    rows_heard, highs = math.ceil(log_mel.window_samples / columns), columns // 2 + 1
    matrices = {
        "row": _turns(range(rows_heard), range(rows), rows),
        "turn": _turns(range(columns), range(rows), log_mel.n_fft),
        "column": _turns(range(highs), range(columns), columns),
    }
    cosines = {f"{name}_cosines": _single(turns.real) for name, turns in matrices.items()}
    sines = {f"{name}_sines": _single(turns.imag) for name, turns in matrices.items()}
    return cosines | sines | {"shape_of_power": _whole(0, frames, highs * rows)}


def _turns(ones: range, others: range, length: int) -> NDArray[np.complex128]:
    """exp(-2 pi i one other / length), of which cosine and sine are the parts."""
    return np.exp(-2j * np.pi * (np.outer(ones, others) % length) / length)


def _joined_hops(count: int, frames: int, constants: dict[str, NDArray[Any]]) -> list[str]:
    """A frame is so many hops on end: no runtime need gather samples one by one."""
    constants |= {f"hop_{first}": _whole(first) for first in {*range(count), *range(frames, frames + count)}}
    lines = [f"hops_{one} = Slice (hops, hop_{one}, hop_{one + frames}, one)" for one in range(count)]
    return [*lines, f"joined = Concat <axis = 2> ({', '.join(f'hops_{one}' for one in range(count))})"]


def _mel_blocks(log_mel: LogMel, constants: dict[str, NDArray[Any]]) -> list[str]:
    """Power to mel, a block of bands after the other by the bins that they touch."""
    lines, blocks = [], banded_blocks(log_mel.filters, _BANDS_PER_BLOCK)
    for number, (rows, columns) in enumerate(blocks):
        constants[f"filters_{number}"] = log_mel.filters[rows, columns].T.contiguous().numpy()
        constants |= {f"from_{number}": _whole(columns.start), f"to_{number}": _whole(columns.stop)}
        lines.append(f"power_{number} = Slice (power, from_{number}, to_{number}, two)")
        lines.append(f"mel_{number} = MatMul (power_{number}, filters_{number})")
    names = ", ".join(f"mel_{number}" for number in range(len(blocks)))
    return [*lines, f"mel = Concat <axis = 2> ({names})"]


def with_front_end(front_end: "ModelProto", network: "ModelProto") -> "ModelProto":
    """Waveform (batch, clip_samples) -> logits (batch, classes)."""
    from onnx import compose

    return compose.merge_models(front_end, network, io_map=[(LOG_MEL, LOG_MEL)])
