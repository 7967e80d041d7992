"""CP-Mobile goes through every stage, one router serves it beside a TF-SepNet, and both become files for
devices."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pandas as pd
import pytest
import soundfile

from adaptf.compression.runtime import LARGEST_DIFFERENCE, why_no_openvino
from adaptf.errors import UserError
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.export import EXPORT, ExportConfig, judge
from adaptf.mlproject.finetune import FINETUNE, FinetuneConfig
from adaptf.mlproject.quantize import QUANTIZE, QuantizeConfig
from adaptf.mlproject.register import REGISTER, RegisterConfig
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.models.checkpoint import load_classifier, save_classifier
from adaptf.models.classifier import build_classifier
from adaptf.models.students.registry import TFSEPNET
from adaptf.pipeline.config import ModelConfig
from adaptf.pipeline.export_device import Exported
from adaptf.pipeline.int8_models import models_of_quantize
from adaptf.pipeline.stage import execute
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.serving import logged_model
from adaptf.serving.router import DeviceRouter
from adaptf.tracking.stage_run import StageRun

DOCS = Path(__file__).parents[2] / "docs"

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


@pytest.fixture(scope="module")
def registered(quantized: str) -> str:
    return execute(REGISTER, RegisterConfig(quantized, "none"))


def test_one_router_holds_both_and_each_answers_for_its_devices(
    registered: str, folder: Path, noise, encoded
):
    router = DeviceRouter()
    bundle = logged_model.download_bundle("adaptf-router", "1", folder)
    router.load_context(SimpleNamespace(artifacts={"bundle": str(bundle)}, model_config=None))
    table = pd.DataFrame({"audio": [encoded(noise(32_000))] * 2, "device": ["a", "s7"]})
    answer = router.predict(None, table)
    assert list(answer.version_used) == ["adaptf-a/1", "adaptf-unknown/1"]
    of_a, of_unknown = answer.probabilities
    assert of_a.keys() == of_unknown.keys() and of_a != of_unknown


@pytest.fixture(scope="module")
def exported(registered: str, train_config: TrainConfig) -> str:
    """Run of `export` of the router's both models."""
    return execute(EXPORT, ExportConfig(train_config.prepare_run, "models:/adaptf-router/1"))


def test_files_for_devices_say_what_the_registered_versions_say_and_the_versions_tell(exported: str):
    table = pd.read_csv(artifact(exported, "export.csv"), index_col="file")
    files = {f"{device}{hears}.onnx" for device in ("a", "unknown") for hears in ("", "_log_mel")}
    assert set(table.index) == files
    assert (table["same scene"] >= 0.995).all() and (table["logit error"] < LARGEST_DIFFERENCE).all()
    headers = {"front_end.h", "a.h", "unknown.h"}
    assert {file.name for file in artifact(exported, "export").iterdir()} == files | headers
    tags = mlflow.MlflowClient().get_model_version("adaptf-a", "1").tags
    assert tags["adaptf.export_run"] == exported
    network, whole = (int(tags[f"adaptf.onnx_{hears}_macs"]) for hears in ("log_mel", "waveform"))
    assert network == int(tags["adaptf.served_macs"]) < whole
    measured = mlflow.get_run(exported).data.metrics
    assert measured["log_mel bytes/unknown"] == table.loc["unknown_log_mel.onnx", "bytes"]


def test_the_example_of_the_docs_runs_a_file_by_itself(
    exported: str, tmp_path: Path, noise, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "export.md").read_text(), flags=re.DOTALL)
    shutil.copy(artifact(exported, "export/a.onnx"), tmp_path)
    soundfile.write(tmp_path / "clip.wav", noise(32_000), 32_000, subtype="FLOAT")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert capsys.readouterr().out.strip() in ("airport", "bus")


def test_a_run_of_quantize_is_exported_without_being_registered(quantized: str, tmp_path: Path):
    run = StageRun("none", "export", tmp_path)
    models = models_of_quantize(run, quantized)
    assert [(model.device, model.version) for model in models] == [("a", ""), ("unknown", "")]
    assert models[0].heard.scenes == ("airport", "bus")


def test_a_file_that_says_other_scenes_is_refused_unless_it_is_wanted():
    found = Exported("a", "waveform", "a.onnx", 1, 1, 1.0, 0.99, 0.1, 0.3)
    with pytest.raises(UserError, match=r"of 300 clips:\n  a\.onnx, .* same scene on 99\.0%"):
        judge([found], refuse=True, clips=300)
    assert "a.onnx" in judge([found], refuse=False, clips=300)
