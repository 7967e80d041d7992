"""What a registered model's page shows:
what a request and a response hold, and an example."""

import base64
from io import BytesIO

import numpy as np
import soundfile
from mlflow.models import ModelSignature
from mlflow.types.schema import AnyType, ColSpec, DataType, Map, ParamSchema, ParamSpec, Schema, TensorSpec

from adaptf.serving.requests import AUDIO, DEVICE, SECOND, STREAM
from adaptf.serving.response import Parameters


def signature() -> ModelSignature:
    """Columns of a request, in the order in which Spark takes those without names; parameters; and the
    columns that every response has, since Spark asks for all that stand here.

    A request's columns have no types: with them MLflow would refuse what the router takes, as a column
    without any device (pandas reads numbers), or seconds that are whole numbers of another type, and word
    all errors itself. What they hold is in the metadata, with an example.
    """
    text, double = DataType.string, DataType.double
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(AnyType(), AUDIO),
        *(ColSpec(AnyType(), name, required=False) for name in (DEVICE, STREAM, SECOND)),
    ]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(text, "scene"),
        ColSpec(double, "probability"),
        ColSpec(text, "device_asked"),
        ColSpec(text, "device_used"),
        ColSpec(text, "version_used"),
        ColSpec(Map(double), "probabilities"),
        ColSpec(text, "error"),
    ]
    defaults = Parameters()
    params = ParamSchema(
        [
            ParamSpec("top_k", DataType.long, defaults.top_k),
            ParamSpec("aggregate", text, defaults.aggregate),
            ParamSpec("stay_seconds", double, defaults.stay_seconds),
            ParamSpec("on_error", text, defaults.on_error),
        ]
    )
    return ModelSignature(Schema(inputs), Schema(outputs), params)


def example_request() -> dict[str, list[dict[str, str]]]:
    """The JSON of a request: a tenth of a second of a tone, recorded by nobody, as device a."""
    rate_hz, tone_hz = 8000, 500
    tone = 0.1 * np.sin(2 * np.pi * tone_hz * np.arange(rate_hz // 10) / rate_hz)
    file = BytesIO()
    soundfile.write(file, tone, rate_hz, format="FLAC")
    return {"dataframe_records": [{AUDIO: base64.b64encode(file.getvalue()).decode(), DEVICE: "a"}]}
