"""From a checkpoint to a promoted version: quantize, evaluate, register, promote, rollback, lineage."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from adaptf.compression.runtime import LARGEST_DIFFERENCE, why_no_openvino
from adaptf.errors import UserError
from adaptf.evaluation.profile import Profile
from adaptf.mlproject.evaluate import EVALUATE, EvaluateConfig
from adaptf.mlproject.finetune import FINETUNE, FinetuneConfig
from adaptf.mlproject.promote import PROMOTE, PromoteConfig
from adaptf.mlproject.quantize import QUANTIZE, QuantizeConfig
from adaptf.mlproject.register import REGISTER, RegisterConfig
from adaptf.mlproject.rollback import ROLLBACK, RollbackConfig
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.models.device_from_sound import DEVICE_FROM_SOUND
from adaptf.pipeline import profiles
from adaptf.pipeline.config import AugmentConfig, OptimConfig
from adaptf.pipeline.int8_models import models_of_version
from adaptf.pipeline.stage import execute
from adaptf.serving import logged_model
from adaptf.serving.bundle import read_bundle
from adaptf.tracking import production
from adaptf.tracking.present import IN_PRODUCTION

LOSSY = 1.0
"""Tolerable loss: two epochs on noise teach nothing that could be lost."""

TELLS_NOTHING = {"devices": ["a"], "threshold": 1.0, "weights": [[0.0] * 127], "bias": [0.0]}


@dataclass(frozen=True)
class Deployed:
    """Runs."""

    quantized: str
    registered: str


@pytest.fixture(scope="module")
def deployed(train_config: TrainConfig, folder: Path) -> Deployed:
    """Only the model for unknown devices: the others have too few clips."""
    prepared, trained = train_config.prepare_run, execute(TRAIN, train_config)
    start = mlflow.artifacts.download_artifacts(
        run_id=trained, artifact_path="checkpoints/best.ckpt", dst_path=str(folder)
    )
    tuned = execute(
        FINETUNE,
        FinetuneConfig(
            prepare_run=prepared,
            distill_run=start,
            teacher_runs="none",
            min_clips=1000,
            augment=AugmentConfig(dir_p=0.0, mixstyle_p=0.0, mixup_alpha=0.0),
            optim=OptimConfig(lr=0.001, batch_size=8, max_epochs=1, restart_epochs=1),
            trainer=train_config.trainer,
        ),
    )
    # As of more devices.
    mlflow.MlflowClient().log_dict(tuned, TELLS_NOTHING, DEVICE_FROM_SOUND)
    quantized = execute(
        QUANTIZE,
        QuantizeConfig(
            prepare_run=prepared, finetune_run=tuned, tolerable_loss=LOSSY, tolerable_logit_error=LOSSY
        ),
    )
    only = EvaluateConfig(
        prepare_run=prepared,
        train_run="none",
        distill_run="none",
        finetune_run="none",
        quantize_run=quantized,
    )
    evaluated = execute(EVALUATE, only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiles, "FEWEST_PLACES", 2)
        return Deployed(quantized, execute(REGISTER, RegisterConfig(quantized, evaluated)))


def test_the_router_alone_tells_devices_by_their_sound(deployed: Deployed, tmp_path: Path):
    for name, tells in (("adaptf-router", True), ("adaptf-unknown", False)):
        bundle = logged_model.download_bundle(name, "1", tmp_path / name)
        assert (bundle / DEVICE_FROM_SOUND).is_file() == tells


@pytest.fixture(scope="module")
def first_promotion(deployed: Deployed) -> PromoteConfig:
    config = PromoteConfig(
        register_run=deployed.registered, tolerable_loss=LOSSY, tolerable_logit_error=LOSSY
    )
    execute(PROMOTE, config)
    return config


def artifact(run_id: str, path: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path))


def test_quantizing_leaves_both_forms_their_figures_and_what_they_predict(deployed: Deployed):
    table = pd.read_csv(artifact(deployed.quantized, "quantization.csv"), index_col="device")
    row = table.loc["unknown"]
    assert row["INT8 convolutions"] == "15/15"
    assert (row["bands"], row["frames"]) == (64, 64)
    predictions = pd.read_parquet(artifact(deployed.quantized, "validation/unknown.parquet"))
    right = predictions["predicted"] == predictions["scene"]
    assert row["INT8 accuracy"] == pytest.approx(100 * right.groupby(predictions["scene"]).mean().mean())
    folder = artifact(deployed.quantized, "int8")
    assert (folder / "unknown.pt2").is_file()
    if why_no_openvino(folder / "unknown.pt2"):
        assert row.isna()["OpenVINO ms"]
    else:
        assert row["OpenVINO logit difference"] <= LARGEST_DIFFERENCE
        assert row["OpenVINO ms"] > 0


def test_a_version_tells_its_scores_budget_runs_data_and_code(deployed: Deployed):
    versions = json.loads(artifact(deployed.registered, "versions.json").read_text())
    assert versions == {"adaptf-unknown": "1", "adaptf-router": "1"}
    version = mlflow.MlflowClient().get_model_version("adaptf-unknown", "1")
    assert f"runs/{deployed.quantized}" in version.description
    for text in (
        "airport",
        "multiply-accumulates for one clip",
        "held to the limit",
        "frames of one clip",
        "Data digest:",
    ):
        assert text in version.description
    assert version.tags["adaptf.quantize_run"] == deployed.quantized
    assert int(version.tags["adaptf.model_bytes"]) < 128_000
    router = mlflow.MlflowClient().get_model_version("adaptf-router", "1")
    assert "| unknown&emsp; | adaptf-unknown/1 |" in router.description


def test_a_version_holds_what_streams_and_drift_need(deployed: Deployed, tmp_path: Path):
    for name in ("adaptf-unknown", "adaptf-router"):
        folder = tmp_path / name
        folder.mkdir()
        model = read_bundle(logged_model.download_bundle(name, "1", folder)).models["unknown"]
        assert model.stream is not None
        assert model.stream.factor > 0 and 0 <= model.stream.dependence <= 1
        assert model.profile and Profile.from_dict(model.profile).clips == 6


def test_what_was_promoted_is_in_production_and_the_runs_tell_it(first_promotion: PromoteConfig):
    assert production.in_production() == {"adaptf-unknown": "1", "adaptf-router": "1"}


def test_what_is_in_production_is_what_is_exported(first_promotion: PromoteConfig, tmp_path: Path):
    for uri in (IN_PRODUCTION, "models:/adaptf-unknown@production", "models:/adaptf-router/1"):
        (model,) = models_of_version(uri, tmp_path / uri.rpartition("/")[2])
        assert (model.device, model.version) == ("unknown", "adaptf-unknown/1")
        assert model.path.is_file() and model.heard.mel["bands"] == 64


def test_versions_without_enough_clips_in_common_need_a_reason_and_can_be_rolled_back(
    first_promotion: PromoteConfig, deployed: Deployed, tmp_path: Path
):
    execute(REGISTER, RegisterConfig(deployed.quantized))
    second = replace(first_promotion, device="unknown", version="2")
    with pytest.raises(
        UserError, match=r"adaptf-unknown version 2 can't be compared with version 1.* at least 20 are needed"
    ):
        execute(PROMOTE, second)
    assert production.resolve_production("adaptf-unknown") == "1"
    run_id = execute(PROMOTE, replace(second, force=True, reason="a trial"))
    tags = mlflow.get_run(run_id).data.tags
    assert (tags["adaptf.promoted.adaptf-unknown"], tags["adaptf.replaced.adaptf-unknown"]) == ("2", "1")
    assert tags["adaptf.reason"] == "a trial"
    (exported,) = models_of_version(IN_PRODUCTION, tmp_path / "versions")
    assert exported.version == "adaptf-unknown/2"  # the router in production holds version 1
    execute(ROLLBACK, RollbackConfig("unknown"))
    assert production.resolve_production("adaptf-unknown") == "1"


def test_the_lineage_of_what_is_in_production_goes_back_to_the_data(
    first_promotion: PromoteConfig, deployed: Deployed
):
    command = [sys.executable, "-m", "adaptf.mlproject.lineage", "models:/adaptf-unknown@production"]
    tree = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for text in (
        "adaptf-unknown version 1, in production",
        deployed.registered,
        deployed.quantized,
        "finetune",
        "prepare",
    ):
        assert text in tree


def test_a_register_run_that_was_killed_goes_on_and_makes_no_second_version(
    deployed: Deployed, kill_when: Callable[[list[str], Callable[[list[str]], bool]], str]
):
    command = [sys.executable, "-m", "adaptf.mlproject.register", f"--quantize_run={deployed.quantized}"]
    before = production.versions_by_number("adaptf-unknown").keys()
    kill_when([*command, "--max_seconds=30"], lambda lines: "adaptf-unknown version" in lines[-1])
    (made,) = production.versions_by_number("adaptf-unknown").keys() - before
    run_id = execute(REGISTER, RegisterConfig(deployed.quantized, max_seconds=30.0))
    versions = json.loads(artifact(run_id, "versions.json").read_text())
    assert versions["adaptf-unknown"] == made
    assert production.versions_by_number("adaptf-unknown").keys() == before | {made}
    assert mlflow.MlflowClient().get_model_version("adaptf-unknown", made).run_id == run_id
    assert "airport" in mlflow.MlflowClient().get_model_version("adaptf-unknown", made).description
    router = logged_model.download_bundle(
        "adaptf-router", versions["adaptf-router"], artifact(run_id, "versions.json").parent
    )
    (entry,) = json.loads((router / "router.json").read_text())["models"].values()
    tags = mlflow.MlflowClient().get_model_version("adaptf-unknown", made).tags
    assert entry["sha256"] == tags["adaptf.bundle"]
