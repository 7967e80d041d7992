"""Predictions of clips by whatever a run holds: one model, a model per device, or INT8 models."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from adaptf.compression.int8 import load_int8
from adaptf.data.clips import TEST, UNKNOWN
from adaptf.evaluation.predict import inference_device, predict_logits
from adaptf.evaluation.scores import prediction_table
from adaptf.models.classifier import ModelDescription, build_classifier
from adaptf.names import written
from adaptf.pipeline.artifacts import DESCRIPTION, INT8
from adaptf.pipeline.checkpoints import classifier_of
from adaptf.pipeline.dataset import PreparedData
from adaptf.pipeline.device_models import check_devices, device_models
from adaptf.tracking import runs
from adaptf.tracking.checkpoint_files import files_of, is_several
from adaptf.tracking.runs import UpstreamError
from adaptf.tracking.stage_run import StageRun

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PlacedModels:
    """Models with the device that each is for; `unknown` answers for all others."""

    models: Mapping[str, Model]
    place: torch.device
    """Where they run."""


def load_models(run: StageRun, value: str, data: PreparedData, accelerator: str) -> PlacedModels:
    """Of a run of train, teacher, distill, finetune or quantize, or of checkpoint files.

    Raises UserError where they are not for the data's scenes,
    or learnt from other data as far as that is known.
    """
    stage = "" if files_of(value) else runs.stage_of(value)
    if stage == "quantize":
        runs.check_data(value, data.digest)
        return PlacedModels(_int8_models(run.download(value, INT8)), torch.device("cpu"))
    if stage == "finetune" or is_several(value):
        found = device_models(run, value, data)
        check_devices(value, found, data)
    elif stage in ("", "train", "teacher", "distill", "finetune_device"):
        found = {UNKNOWN: classifier_of(run, value, data)}
    else:
        raise UpstreamError(
            f"run {value} is of stage '{stage}': one of train, teacher, distill, finetune or quantize is "
            "needed"
        )
    place = inference_device(accelerator)
    return PlacedModels({device: model.to(place) for device, model in found.items()}, place)


def _int8_models(folder: Path) -> dict[str, Model]:
    """The INT8 classifiers by device."""
    stored = json.loads((folder / DESCRIPTION).read_text())
    stored.pop("clip_samples")
    features = build_classifier(ModelDescription(**(stored | {"classes": tuple(stored["classes"])}))).features
    return {
        written(path.stem): nn.Sequential(features, load_int8(path))
        for path in sorted(folder.glob("[!.]*.pt2"))
    }


def predict_by_device(
    router: PlacedModels, data: PreparedData, rows: pd.DataFrame, name: str
) -> pd.DataFrame:
    """Each of these rows of the clip table by the model of its device,
    or by `unknown` where the device has none."""
    rows = rows.reset_index(drop=True)
    logits = np.zeros((len(rows), len(data.classes)), dtype=np.float32)
    route = rows["device"].where(rows["device"].isin(list(router.models)), UNKNOWN)
    for device, places in route.groupby(route).groups.items():
        clips = data.clip_set(rows.loc[places], TEST)
        logits[places] = predict_logits(
            router.models[str(device)], clips, device=router.place, name=f"{name}: {device}"
        )
    return prediction_table(rows, logits, data.classes)
