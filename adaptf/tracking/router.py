"""The registered model: one network per recording device behind one `predict`, as MLflow's "model from code".

MLflow runs this file to load the model, so no pickle is needed. A model for one device is the same router with a single
entry, `unknown`, that answers for every device.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from torch import Tensor, nn

from adaptf.audio.logmel import LogMel
from adaptf.compression.int8 import load_int8
from adaptf.data.clips import UNKNOWN
from adaptf.tracking.requests import Row, read_rows

BUNDLE = "bundle"
"""Name of the artifact folder that holds the manifest and the networks' files."""
MANIFEST = "router.json"

CLIPS_PER_BATCH = 16
"""Of the log-mel, which takes 4 MB a clip; on one CPU core 64 took twice the time of 16 for each clip."""


class BundleError(ValueError):
    """A bundle that cannot answer every request."""


@dataclass(frozen=True)
class RoutedModel:
    """A network and the registered version that it is."""

    network: nn.Module
    """(batch, 1, bands, frames) -> logits (batch, scenes)"""
    version: str
    """Such as `adaptf-a/3`."""


@dataclass(frozen=True)
class Bundle:
    """What a router answers with, read from its artifact folder."""

    scenes: list[str]
    sample_rate: int
    clip_samples: int
    max_seconds: float
    """The longest audio of one row."""
    log_mel: LogMel
    models: Mapping[str, RoutedModel]
    """By device; `unknown` is always there."""

    def device_used(self, device: str | None) -> str:
        """The name must match exactly: ' a' and 'A' are devices nobody trained for, like null and ''."""
        return device if device in self.models and device is not None else UNKNOWN


def read_bundle(folder: Path) -> Bundle:
    """The bundle in a folder, every network tried on silence. Raises BundleError where it is incomplete or unfit."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, mel, values = manifest.pop("models"), manifest.pop("mel"), manifest
        if UNKNOWN not in files:
            raise BundleError(
                f"the bundle has networks for {sorted(files)} but none for {UNKNOWN!r}, "
                "which answers for every other device: add it"
            )
        models = {device: read_model(folder, **entry) for device, entry in files.items()}
        bundle = Bundle(log_mel=LogMel(**mel), models=models, **values)
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise BundleError(f"{folder} is no bundle of a router with a complete {MANIFEST}: {error!r}") from error
    for device, model in models.items():
        check_network(device, model.network, bundle)
    return bundle


def read_model(folder: Path, *, file: str, version: str) -> RoutedModel:
    """A network of the bundle; `file` is a bare name, never a way out of the folder."""
    if Path(file).name != file or not (folder / file).is_file():
        raise BundleError(f"{file!r} of {version} should be the name of a file in the bundle")
    return RoutedModel(load_int8(folder / file), version)


def check_network(device: str, network: nn.Module, bundle: Bundle) -> None:
    """Tries two clips of silence: a fixed batch, other features or other scenes should fail before any request does."""
    wanted = (2, len(bundle.scenes))
    if bundle.log_mel.sample_rate != bundle.sample_rate:
        raise BundleError(f"the log-mel is made for {bundle.log_mel.sample_rate} Hz, the bundle for {bundle.sample_rate}")
    try:
        with torch.no_grad():
            logits = network(bundle.log_mel(torch.zeros(2, bundle.clip_samples)))
    except (RuntimeError, ValueError) as error:
        raise BundleError(f"the network of device {device!r} does not take the bundle's log-mel: {error}") from error
    if tuple(logits.shape) != wanted or not bool(logits.isfinite().all()):
        raise BundleError(f"the network of device {device!r} should give finite logits {wanted}, got {tuple(logits.shape)}")


@torch.no_grad()
def classify(bundle: Bundle, rows: list[Row]) -> Tensor:
    """Probabilities (rows, scenes), float64: of each row the mean over its clips, by the network of its device."""
    clips = torch.from_numpy(np.concatenate([row.clips for row in rows]))
    row_of_clip = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(row.clips) for row in rows]))
    log_mels = torch.cat([bundle.log_mel(batch) for batch in clips.split(CLIPS_PER_BATCH)])
    devices = [bundle.device_used(row.device) for row in rows]
    sums = torch.zeros(len(rows), len(bundle.scenes), dtype=torch.float64)
    for device in set(devices):
        of_device = torch.tensor([used == device for used in devices])[row_of_clip]
        logits = bundle.models[device].network(log_mels[of_device])
        sums.index_add_(0, row_of_clip[of_device], logits.double().softmax(dim=1))
    return sums / row_of_clip.bincount()[:, None]


class DeviceRouter(PythonModel):
    """Rows of audio and device -> rows of scene, probabilities and the version that answered."""

    bundle: Bundle

    def load_context(self, context: Any) -> None:
        """Reads the bundle. Raises BundleError."""
        self.bundle = read_bundle(Path(context.artifacts[BUNDLE]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row per row of the request, with its index.

        `audio` is base64 of a WAV, FLAC or OGG file of any rate; longer audio than a clip is cut (see
        `adaptf.tracking.requests.cut_clips`) and the clips' probabilities are averaged. `device` may be missing or
        null. `probabilities` holds a dictionary by scene: `pandas.json_normalize` makes columns of it.

        Raises MlflowException (INVALID_PARAMETER_VALUE) that names the row at fault.
        """
        bundle = self.bundle
        rows = read_rows(
            model_input,
            sample_rate=bundle.sample_rate,
            clip_samples=bundle.clip_samples,
            max_seconds=bundle.max_seconds,
        )
        probabilities = classify(bundle, rows)
        answers = [answer(bundle, row.device, of_row) for row, of_row in zip(rows, probabilities.tolist(), strict=True)]
        # Columns of objects: pandas would turn a null device into NaN, which is not JSON.
        return pd.DataFrame(answers, index=model_input.index, dtype=object).astype({"probability": float})


def answer(bundle: Bundle, device: str | None, probabilities: list[float]) -> dict[str, Any]:
    """One row of the response."""
    by_scene = dict(zip(bundle.scenes, probabilities, strict=True))
    scene = max(by_scene, key=by_scene.__getitem__)
    used = bundle.device_used(device)
    return {
        "scene": scene,
        "probability": by_scene[scene],
        "device_asked": device,
        "device_used": used,
        "version_used": bundle.models[used].version,
        "probabilities": by_scene,
    }


set_model(DeviceRouter())
