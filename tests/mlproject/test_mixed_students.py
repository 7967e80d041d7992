"""CP-Mobile goes through every stage, and one router serves it beside a TF-SepNet."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest

from adaptf.compression.runtime import LARGEST_DIFFERENCE, why_no_openvino
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.finetune import FINETUNE, FinetuneConfig
from adaptf.mlproject.quantize import QUANTIZE, QuantizeConfig
from adaptf.mlproject.register import REGISTER, RegisterConfig
from adaptf.mlproject.teacher import TEACHER, TeacherConfig
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.models.checkpoint import load_classifier, save_classifier
from adaptf.models.classifier import build_classifier
from adaptf.models.students.registry import TFSEPNET
from adaptf.pipeline.config import ModelConfig
from adaptf.pipeline.stage import execute
from adaptf.serving import logged_model
from adaptf.serving.router import DeviceRouter

LOSSY = 1.0
"""Tolerable: an epoch on noise teaches nothing that could be lost."""


@pytest.fixture(scope="module")
def cp_mobile(train_config: TrainConfig, distill_config: DistillConfig, teacher_config: TeacherConfig) -> str:
    """Run of `finetune` with a model for unknown devices alone: the others have too few clips."""
    one_epoch = replace(train_config.optim, max_epochs=1)
    model = ModelConfig(kind="cp_mobile", width=8)
    trained = execute(TRAIN, replace(train_config, model=model, optim=one_epoch))
    teacher = execute(TEACHER, teacher_config)
    distilled = execute(DISTILL, replace(distill_config, train_run=trained, teacher_runs=teacher))
    tuned = FinetuneConfig(
        prepare_run=train_config.prepare_run,
        distill_run=distilled,
        min_clips=1000,
        optim=one_epoch,
        trainer=train_config.trainer,
    )
    return execute(FINETUNE, tuned)


@pytest.fixture(scope="module")
def quantized(cp_mobile: str, train_config: TrainConfig, folder: Path) -> str:
    """Of a TF-SepNet for device a, and of that CP-Mobile for all others."""
    run_id = json.loads(artifact(cp_mobile, "models.json").read_text())["unknown"]
    of_unknown = load_classifier(artifact(run_id, "checkpoints/best.ckpt"))
    described = replace(of_unknown.description, kind=TFSEPNET, network={"width": 8, "depth": 3})
    files = {
        device: str(save_classifier(classifier, folder / "mixed" / f"{device}.ckpt", epoch=0))
        for device, classifier in {"a": build_classifier(described), "unknown": of_unknown}.items()
    }
    return execute(
        QUANTIZE,
        QuantizeConfig(
            prepare_run=train_config.prepare_run,
            finetune_run=json.dumps(files),
            tolerable_loss=LOSSY,
            tolerable_logit_error=LOSSY,
        ),
    )


def artifact(run_id: str, path: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path))


def test_every_convolution_of_both_becomes_int8_and_both_get_their_openvino_form(quantized: str):
    table = pd.read_csv(artifact(quantized, "quantization.csv"), index_col="device")
    assert table["INT8 convolutions"].to_dict() == {"a": "15/15", "unknown": "21/21"}
    folder = artifact(quantized, "int8")
    for device in ("a", "unknown"):
        if why_no_openvino(folder / f"{device}.pt2"):
            assert pd.isna(table.loc[device, "OpenVINO ms"])
        else:
            assert table.loc[device, "OpenVINO logit difference"] <= LARGEST_DIFFERENCE


def test_one_router_holds_both_and_each_answers_for_its_devices(quantized: str, folder: Path, noise, encoded):
    execute(REGISTER, RegisterConfig(quantized, "none"))
    router = DeviceRouter()
    bundle = logged_model.download_bundle("adaptf-router", "1", folder)
    router.load_context(SimpleNamespace(artifacts={"bundle": str(bundle)}, model_config=None))
    table = pd.DataFrame({"audio": [encoded(noise(32_000))] * 2, "device": ["a", "s7"]})
    answer = router.predict(None, table)
    assert list(answer.version_used) == ["adaptf-a/1", "adaptf-unknown/1"]
    of_a, of_unknown = answer.probabilities
    assert of_a.keys() == of_unknown.keys() and of_a != of_unknown
