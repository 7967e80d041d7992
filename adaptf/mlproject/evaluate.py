"""Stage `evaluate`: the class-wise and device-wise tables on the test clips, with and without device fine-tuning."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from adaptf.compression.int8 import load_int8
from adaptf.data.clips import TEST, UNKNOWN, devices_of
from adaptf.errors import UserError
from adaptf.evaluation.figures import confusion_figure, device_figure
from adaptf.evaluation.predict import inference_device, predict_logits
from adaptf.evaluation.scores import confusion, log_loss, macro_accuracy, prediction_table
from adaptf.evaluation.tables import as_markdown, as_text, device_table, scene_table
from adaptf.mlproject.config import upstream
from adaptf.mlproject.dataset import DATA_KIND, SCENES_KIND, PreparedData, load_prepared
from adaptf.mlproject.distill import teacher_name
from adaptf.mlproject.finetune import MODELS
from adaptf.mlproject.fitting import checkpoint_of, tfsepnet_description
from adaptf.mlproject.quantize import DESCRIPTION, INT8
from adaptf.mlproject.stage import run_stage
from adaptf.models.checkpoint import load_classifier
from adaptf.models.classifier import ModelDescription, build_classifier
from adaptf.tracking import runs
from adaptf.tracking.runs import NONE, Result, StageRun

TRAINED, DISTILLED, FINETUNED, QUANTIZED = "trained", "distilled", "per device", "per device INT8"
TABLES = "tables.txt"
Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EvaluateConfig:
    """Scores models on the test clips. Each setting can be left out with `none`."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    train_run: str = upstream("train")
    """One model, from the labels alone."""
    distill_run: str = upstream("distill")
    """One model, distilled: without device fine-tuning."""
    finetune_run: str = upstream("finetune")
    """A model per device: with device fine-tuning."""
    quantize_run: str = upstream("quantize")
    """The same as INT8."""
    accelerator: str = "auto"
    """Where float models run: cpu, gpu, ... or auto. INT8 models run on the CPU."""


def evaluate(config: EvaluateConfig, run: StageRun) -> Result:
    """Tables as text, CSV and Markdown, confusion matrices, and every setting's predictions."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    settings = predictions_of(config, run, data)
    if not settings:
        raise UserError("there is nothing to evaluate: all of train_run, distill_run, finetune_run and quantize_run are 'none'")
    scenes = scene_table(settings, data.classes)
    devices = device_table(settings, devices_of(data.table))
    folder = run.folder / "tables"
    folder.mkdir(exist_ok=True)
    scenes.to_csv(folder / "scenes.csv")
    devices.to_csv(folder / "devices.csv")
    for setting, predictions in settings.items():
        predictions.to_csv(folder / f"predictions {setting}.csv", index=False, float_format="%.9g")
    matrices = {setting: confusion(predictions, data.classes) for setting, predictions in settings.items()}
    shown = dict(list(matrices.items())[-2:])
    sounds = "Synthesised sounds: these figures say nothing about real scenes. " if data.synthesised else ""
    note = f"{sounds}{len(data.table[data.table['split'] == TEST])} test clips. {origin_of_teachers(config)}"
    text = f"{note}\n\n{as_text(scenes)}\n\n{as_text(devices)}"
    (run.folder / TABLES).write_text(text)
    return Result(
        metrics=metrics_of(settings, data),
        files={
            TABLES: run.folder / TABLES,
            "tables": folder,
            "confusion.png": confusion_figure(shown, run.folder / "confusion.png"),
            "devices.png": device_figure(devices, run.folder / "devices.png"),
        },
        note=f"{note}\n\n{as_markdown(scenes)}\n\n{as_markdown(devices)}",
        summary=text,
    )


def predictions_of(config: EvaluateConfig, run: StageRun, data: PreparedData) -> dict[str, pd.DataFrame]:
    """Predictions of the test clips by setting."""
    settings = {}
    for setting, value in ((TRAINED, config.train_run), (DISTILLED, config.distill_run)):
        if value != NONE:
            models = {UNKNOWN: float_model(run, value, data, config.accelerator)}
            settings[setting] = predict_by_device(models, data, inference_device(config.accelerator), setting)
    if config.finetune_run != NONE:
        run_ids: Mapping[str, str] = json.loads(run.download(config.finetune_run, MODELS).read_text())
        models = {device: float_model(run, run_id, data, config.accelerator) for device, run_id in run_ids.items()}
        settings[FINETUNED] = predict_by_device(models, data, inference_device(config.accelerator), FINETUNED)
    if config.quantize_run != NONE:
        models = int8_models(run.download(config.quantize_run, INT8))
        settings[QUANTIZED] = predict_by_device(models, data, torch.device("cpu"), QUANTIZED)
    return settings


def float_model(run: StageRun, value: str, data: PreparedData, accelerator: str) -> Model:
    """A checkpoint's classifier on the device."""
    classifier = load_classifier(checkpoint_of(run, value), public_description=tfsepnet_description(data.classes))
    return classifier.to(inference_device(accelerator))


def int8_models(folder: Path) -> dict[str, Model]:
    """The INT8 classifiers by device."""
    stored = json.loads((folder / DESCRIPTION).read_text())
    stored.pop("clip_samples")
    features = build_classifier(ModelDescription(**(stored | {"classes": tuple(stored["classes"])}))).features
    return {path.stem: nn.Sequential(features, load_int8(path)) for path in sorted(folder.glob("*.pt2"))}


def predict_by_device(models: Mapping[str, Model], data: PreparedData, device: torch.device, setting: str) -> pd.DataFrame:
    """Each test clip by the model of its device, or by `unknown` where the device has none."""
    rows = data.table[data.table["split"] == TEST].reset_index(drop=True)
    logits = np.zeros((len(rows), len(data.classes)), dtype=np.float32)
    route = rows["device"].where(rows["device"].isin(list(models)), UNKNOWN)
    for model_device, places in route.groupby(route).groups.items():
        clips = data.clip_set(rows.loc[places], TEST)
        logits[places] = predict_logits(models[str(model_device)], clips, device=device, name=f"{setting}: {model_device}")
    return prediction_table(rows, logits, data.classes)


def metrics_of(settings: Mapping[str, pd.DataFrame], data: PreparedData) -> dict[str, float]:
    """Macro-average accuracy and log loss per setting."""
    metrics = {}
    for setting, predictions in settings.items():
        metrics[f"test/accuracy/{setting}"] = macro_accuracy(predictions)
        metrics[f"test/log_loss/{setting}"] = log_loss(predictions, data.classes)
    return metrics


def origin_of_teachers(config: EvaluateConfig) -> str:
    """Which teachers stand behind the distilled models; a small one is named, because it is no BEATs."""
    if config.distill_run == NONE or Path(config.distill_run).is_file():
        return ""
    run_ids = runs.upstream_of(config.distill_run, "distill", "teacher_runs").split(",")
    return f"Teachers: {', '.join(teacher_name(run_id) for run_id in run_ids)}."


if __name__ == "__main__":
    run_stage(evaluate, EvaluateConfig)
