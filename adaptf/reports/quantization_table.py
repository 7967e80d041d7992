"""What `quantize` found, as a table with a row per device and as a line for the terminal."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from adaptf.pipeline.artifacts import INT8_ACCURACY
from adaptf.pipeline.quantize_device import OpenVinoForm, Quantized


def quantization_table(found: Sequence[Quantized]) -> pd.DataFrame:
    """One row per device; accuracies, losses and shares in percent, times of one clip in ms."""
    return pd.DataFrame([_row(one) for one in found]).set_index("device")


def _row(found: Quantized) -> dict[str, Any]:
    return {
        "device": found.device,
        "float accuracy": found.float_accuracy * 100,
        INT8_ACCURACY: found.int8_accuracy * 100,
        "relative loss": found.loss.relative * 100,
        "standing loss": found.loss.standing * 100,
        "logit error": found.agreement.logit_error,
        "same scene": found.agreement.same_scene * 100,
        **_openvino_columns(found.openvino),
        "float ms": found.float_ms,
        "pt2 ms": found.pt2_ms,
        "OpenVINO ms": found.openvino.clip_ms if found.openvino else math.nan,
        "INT8 convolutions": f"{found.int8_convolutions}/{found.convolutions}",
        "judged on": found.judged_on,
        "calibration clips": found.calibration_clips,
        "ranges": found.ranges,
        "trials": found.trials,
        "served macs": found.served.macs,
        "served bytes": found.served.model_bytes,
        **asdict(found.complexity),
    }


def _openvino_columns(form: OpenVinoForm | None) -> dict[str, float]:
    """Gaps where there is no such form."""
    return {
        "OpenVINO accuracy": form.accuracy * 100 if form else math.nan,
        "OpenVINO same scene": form.agreement.same_scene * 100 if form else math.nan,
        "OpenVINO logit difference": form.agreement.logit_error if form else math.nan,
    }


def quantization_line(found: Quantized) -> str:
    """One line for the terminal."""
    form = found.openvino
    openvino = (
        f"OpenVINO {form.accuracy:.3f}, same scene on {form.agreement.same_scene:.1%}, {form.clip_ms:.1f} ms"
        if form
        else "no OpenVINO form"
    )
    return (
        f"accuracy {found.float_accuracy:.3f} -> INT8 {found.int8_accuracy:.3f} on {found.judged_on}, "
        f"logit error {found.agreement.logit_error:.3f}, same scene on {found.agreement.same_scene:.1%}, "
        f"{found.int8_convolutions}/{found.convolutions} convolutions INT8, {found.pt2_ms:.1f} ms a clip; "
        f"{openvino} ({found.ranges}, trial {found.trials}, {found.calibration_clips} clips)"
    )
