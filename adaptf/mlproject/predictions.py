"""Predictions of clips by whatever a run holds: one model, a model per device, or INT8 models."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from adaptf.compression.int8 import load_int8
from adaptf.data.clips import TEST, UNKNOWN
from adaptf.errors import UserError
from adaptf.evaluation.predict import inference_device, predict_logits
from adaptf.evaluation.scores import prediction_table
from adaptf.mlproject.dataset import PreparedData
from adaptf.mlproject.finetune import MODELS
from adaptf.mlproject.fitting import checkpoint_of, tfsepnet_description
from adaptf.mlproject.quantize import DESCRIPTION, INT8
from adaptf.models.checkpoint import load_classifier
from adaptf.models.classifier import ModelDescription, build_classifier
from adaptf.tracking import runs
from adaptf.tracking.runs import StageRun, UpstreamError

Model = Callable[[Tensor], Tensor]


def predict_test_clips(run: StageRun, value: str, data: PreparedData, accelerator: str, *, name: str) -> pd.DataFrame:
    """By a run of train, teacher, distill, finetune or quantize, or by a checkpoint file."""
    return predict_clips(run, value, data, data.table[data.table["split"] == TEST], accelerator, name=name)


def predict_clips(
    run: StageRun, value: str, data: PreparedData, rows: pd.DataFrame, accelerator: str, *, name: str
) -> pd.DataFrame:
    """The same of any rows of the clip table."""
    stage = "train" if Path(value).is_file() else runs.stage_of(value)
    if stage == "quantize":
        runs.check_data(value, data.digest)
        return predict_by_device(int8_models(run.download(value, INT8)), data, rows, torch.device("cpu"), name)
    if stage == "finetune":
        run_ids: Mapping[str, str] = json.loads(run.download(value, MODELS).read_text())
    elif stage in ("train", "teacher", "distill", "finetune_device"):
        run_ids = {UNKNOWN: value}
    else:
        raise UpstreamError(
            f"run {value} is of stage '{stage}': one of train, teacher, distill, finetune or quantize is needed"
        )
    models = {device: float_model(run, run_id, data, accelerator) for device, run_id in run_ids.items()}
    return predict_by_device(models, data, rows, inference_device(accelerator), name)


def float_model(run: StageRun, value: str, data: PreparedData, accelerator: str) -> Model:
    """A checkpoint's classifier on the device. Raises UserError where it tells other scenes apart."""
    classifier = load_classifier(checkpoint_of(run, value, data=data), public_description=tfsepnet_description(data.classes))
    check_scenes(value, classifier.description.classes, data)
    return classifier.to(inference_device(accelerator))


def check_scenes(what: str, scenes: Sequence[str], data: PreparedData) -> None:
    """Raises UserError where a model's scenes, in the order of its logits, are not those of the data."""
    if tuple(scenes) != data.classes:
        raise UserError(f"{what} tells {', '.join(scenes)} apart, the data has {', '.join(data.classes)}: another task")


def int8_models(folder: Path) -> dict[str, Model]:
    """The INT8 classifiers by device."""
    stored = json.loads((folder / DESCRIPTION).read_text())
    stored.pop("clip_samples")
    features = build_classifier(ModelDescription(**(stored | {"classes": tuple(stored["classes"])}))).features
    return {path.stem: nn.Sequential(features, load_int8(path)) for path in sorted(folder.glob("[!.]*.pt2"))}


def predict_by_device(
    models: Mapping[str, Model], data: PreparedData, rows: pd.DataFrame, device: torch.device, name: str
) -> pd.DataFrame:
    """Each of these rows of the clip table by the model of its device, or by `unknown` where the device has none."""
    rows = rows.reset_index(drop=True)
    logits = np.zeros((len(rows), len(data.classes)), dtype=np.float32)
    route = rows["device"].where(rows["device"].isin(list(models)), UNKNOWN)
    for model_device, places in route.groupby(route).groups.items():
        clips = data.clip_set(rows.loc[places], TEST)
        logits[places] = predict_logits(models[str(model_device)], clips, device=device, name=f"{name}: {model_device}")
    return prediction_table(rows, logits, data.classes)
