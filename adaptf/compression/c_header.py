"""C headers for a board that computes log-mel and network by itself: what both need beside the weights, and a
clip with what has to come out of it."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adaptf.audio.logmel import LOG_OFFSET, SCALE, SHIFT, LogMel

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_PER_LINE = 8
_C_TYPES = {"float32": "float", "uint8": "uint8_t", "int8": "int8_t", "uint16": "uint16_t"}
_FRONT_END = """A clip and its log-mel.

The log-mel of a clip x: y[n] = x[n + 1] - PREEMPHASIS x[n]; y mirrored at both ends by WINDOW_SAMPLES / 2,
its first and last value not repeated; a frame every HOP_SAMPLES, times the window, zeros behind it up to
N_FFT; the power of its Fourier transform; band b is the sum of the powers of mel_bins[b] bins from
mel_first_bin[b] on, times their weights, which lie one band after the other in mel_weights; then
(log(band + LOG_OFFSET) + LOG_SHIFT) / LOG_SCALE. clip_log_mel has all frames of a band on end."""
_NETWORK = """A network's quantization, and its logits of the clip in front_end.h.

Convolution i of the ONNX file, in its order, quantizes its input x to round(x / input_scale[i]) +
input_zero_point[i], within 0 to 255. The weights of its channel c are whole numbers times the c-th of its
channels[i] values in weight_scales, which lie one convolution after the other."""


def front_end_header(log_mel: LogMel, clip: Tensor, features: Tensor) -> str:
    """`clip` is (samples), `features` its log-mel (bands, frames)."""
    first, counts, weights = _bands(log_mel.filters.numpy())
    numbers = {
        "SAMPLE_RATE": log_mel.sample_rate,
        "CLIP_SAMPLES": len(clip),
        "N_FFT": log_mel.n_fft,
        "WINDOW_SAMPLES": log_mel.window_samples,
        "HOP_SAMPLES": log_mel.hop_samples,
        "BANDS": log_mel.bands,
        "FRAMES": features.shape[-1],
        "PREEMPHASIS": log_mel.preemphasis,
        "LOG_OFFSET": LOG_OFFSET,
        "LOG_SHIFT": SHIFT,
        "LOG_SCALE": SCALE,
    }
    arrays = {
        "window": log_mel.window.numpy(),
        "mel_first_bin": first,
        "mel_bins": counts,
        "mel_weights": weights,
        "clip": clip.numpy(),
        "clip_log_mel": features.numpy(),
    }
    return _header("FRONT_END", _FRONT_END, numbers, arrays)


def network_header(model: "ModelProto", scenes: Sequence[str], logits: Tensor) -> str:
    """Of the model without front end; `logits` (scenes) are those of the front end's clip."""
    from onnx import numpy_helper

    made_by = {node.output[0]: node for node in model.graph.node}
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}

    def steps(node: "NodeProto", place: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Scale and zero point of a convolution's input (0) or weights (1)."""
        scale, zero = made_by[node.input[place]].input[1:]
        return constants[scale], constants[zero]

    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    inputs = [steps(node, 0) for node in convolutions]
    scales = [steps(node, 1)[0] for node in convolutions]
    arrays = {
        "input_scale": np.array([scale for scale, _ in inputs]),
        "input_zero_point": np.array([zero for _, zero in inputs]),
        "channels": np.array([len(one) for one in scales], np.uint16),
        "weight_scales": np.concatenate(scales),
        "clip_logits": logits.numpy(),
    }
    named = ", ".join(scenes).replace("*/", "* /")
    text = f"{_NETWORK}\nclip_logits are of the scenes {named}."
    return _header("NETWORK", text, {"CONVOLUTIONS": len(scales), "SCENES": len(scenes)}, arrays)


def _bands(
    filters: NDArray[np.float32],
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.float32]]:
    """Of mel bands (bands, bins): first bin and number of bins of each, and the weights of all on end."""
    touched = [np.flatnonzero(band) for band in filters]
    spans = [(int(bins[0]), int(bins[-1]) + 1) if len(bins) else (0, 0) for bins in touched]
    weights = [band[first:end] for band, (first, end) in zip(filters, spans, strict=True)]
    firsts, ends = np.array(spans, np.uint16).T
    return firsts, ends - firsts, np.concatenate(weights)


def _header(name: str, text: str, numbers: Mapping[str, float], arrays: Mapping[str, NDArray[Any]]) -> str:
    guard = f"ADAPTF_{name}_H"
    comment = "\n".join(f" * {line}".rstrip() for line in text.splitlines())
    defines = [f"#define ADAPTF_{key} {_number(value)}" for key, value in numbers.items()]
    lines = [
        f"/*\n{comment}\n */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        "#include <stdint.h>",
        "",
        *defines,
    ]
    lines += [_array(f"adaptf_{key}", value) for key, value in arrays.items()]
    return "\n".join([*lines, "", f"#endif /* {guard} */", ""])


def _array(name: str, values: NDArray[Any]) -> str:
    flat = values.reshape(-1)
    written = (
        [_number(value) for value in flat.tolist()]
        if flat.dtype.kind != "f"
        else [_single(one) for one in flat]
    )
    rows = [", ".join(written[start : start + _PER_LINE]) for start in range(0, len(written), _PER_LINE)]
    body = ",\n    ".join(rows)
    return f"\nstatic const {_C_TYPES[str(flat.dtype)]} {name}[{len(flat)}] = {{\n    {body}\n}};"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else _single(value)


def _single(value: float) -> str:
    """A float32 such that C reads the same."""
    text = f"{np.float32(value):.9g}"
    return f"{text}f" if re.search(r"[.e]", text) else f"{text}.0f"
