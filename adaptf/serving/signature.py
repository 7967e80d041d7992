"""What a registered model's page shows:
the parameters of a request, what a response holds, and an example."""

import base64
from io import BytesIO

import numpy as np
import soundfile
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, DataType, Map, ParamSchema, ParamSpec, Schema, TensorSpec

from adaptf.serving.requests import AUDIO, DEVICE
from adaptf.serving.response import Parameters


def signature() -> ModelSignature:
    """Parameters and response.

    There is no input schema, on purpose: with one, MLflow drops unknown columns in silence and words all
    other errors itself, before the router sees the request.
    The metadata show what a request holds, with an example.
    """
    text, double = DataType.string, DataType.double
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.long, "row", required=False),
        ColSpec(double, "second", required=False),
        ColSpec(text, "stream", required=False),
        ColSpec(DataType.long, "seconds_heard", required=False),
        ColSpec(text, "scene"),
        ColSpec(double, "probability"),
        ColSpec(text, "device_asked", required=False),
        ColSpec(text, "device_used"),
        ColSpec(text, "version_used"),
        ColSpec(Map(double), "probabilities"),
    ]
    defaults = Parameters()
    params = ParamSchema(
        [
            ParamSpec("top_k", DataType.long, defaults.top_k),
            ParamSpec("aggregate", text, defaults.aggregate),
            ParamSpec("stay_seconds", double, defaults.stay_seconds),
        ]
    )
    return ModelSignature(outputs=Schema(columns), params=params)


def example_request() -> dict[str, list[dict[str, str]]]:
    """The JSON of a request: a tenth of a second of a tone, recorded by nobody, as device a."""
    rate_hz, tone_hz = 8000, 500
    tone = 0.1 * np.sin(2 * np.pi * tone_hz * np.arange(rate_hz // 10) / rate_hz)
    file = BytesIO()
    soundfile.write(file, tone, rate_hz, format="FLAC")
    return {"dataframe_records": [{AUDIO: base64.b64encode(file.getvalue()).decode(), DEVICE: "a"}]}
