"""Training on two processes of one machine."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.entities import Run

from adaptf.pipeline.augmentations import build_augmentations
from adaptf.pipeline.config import AugmentConfig
from adaptf.tracking.stage_run import is_process_zero
from adaptf.tracking.tags import STAGE

TWO_PROCESSES = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def runs_of(stage: str) -> list[Run]:
    found: list[Run] = mlflow.search_runs(
        search_all_experiments=True, filter_string=f"tags.`{STAGE}` = '{stage}'", output_format="list"
    )
    return found


def run_to_its_end(command: list[str], environment: dict[str, str], folder: Path) -> str:
    """What it printed, after making sure that it ended well."""
    done = subprocess.run(
        [*command, *TWO_PROCESSES], capture_output=True, text=True, env=environment, cwd=folder, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list((folder / "work").glob("*-*/"))
    return done.stdout


@pytest.mark.slow
def test_two_processes_write_one_run(command: list[str], environment: dict[str, str], folder: Path) -> None:
    said = run_to_its_end([*command, "--optim.max_epochs=2", "--optim.restart_epochs=2"], environment, folder)
    (run,) = runs_of("train")
    assert run.info.status == "FINISHED"
    assert said.count(f"train finished: run {run.info.run_id}") == 1
    client = mlflow.MlflowClient()
    for metric in ("val/accuracy", "val/loss", "train/loss"):
        assert len(client.get_metric_history(run.info.run_id, metric)) == 2, metric
    checkpoints = {entry.path for entry in client.list_artifacts(run.info.run_id, "checkpoints")}
    assert checkpoints == {"checkpoints/best.ckpt", "checkpoints/last.ckpt"}


@pytest.mark.slow
def test_what_a_scheduler_left_in_the_environment_silences_no_process_that_trains_alone(
    command: list[str], environment: dict[str, str], folder: Path
) -> None:
    left = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "RANK": "1", "LOCAL_RANK": "1", "NODE_RANK": "1"}
    fields = ["--optim.max_epochs=1", "--optim.restart_epochs=1", "--seed=7"]
    done = subprocess.run(
        [*command, *fields], capture_output=True, text=True, env=environment | left, cwd=folder, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = [run for run in runs_of("train") if run.data.params["seed"] == "7"]
    assert run.info.status == "FINISHED" and f"train finished: run {run.info.run_id}" in done.stdout
    assert {"train/loss", "val/accuracy", "best/accuracy"} <= set(run.data.metrics)


@pytest.mark.slow
def test_a_teacher_of_two_processes_predicts_every_clip(
    prepared: str, environment: dict[str, str], folder: Path
) -> None:
    fields = [
        f"--prepare_run={prepared}",
        "--small.width=8",
        "--small.mel.bands=64",
        "--small.optim.max_epochs=1",
    ]
    fields += [
        "--small.optim.batch_size=8",
        "--trainer.accelerator=cpu",
        "--trainer.workers=0",
        "--trainer.progress_bar=false",
    ]
    run_to_its_end([sys.executable, "-m", "adaptf.mlproject.teacher", *fields], environment, folder)
    (run,) = runs_of("teacher")
    logits = pd.read_parquet(
        mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="logits/logits.parquet")
    )
    assert logits["filename"].nunique() == len(logits) == 24
    about = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/logits/logits.json")
    assert json.loads(about)["teacher_run"] == run.info.run_id


def test_each_process_draws_augmentations_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_draws() -> list[float]:
        built = build_augmentations(AugmentConfig(), p_of_clip=np.array([0.4]), sample_rate=32000, seed=0)
        return [float(generator.random()) for generator in built.generators.values()]

    of_process_zero = first_draws()
    monkeypatch.setenv("LOCAL_RANK", "1")  # what Lightning gives the processes that it starts
    of_process_one = first_draws()
    assert not set(of_process_zero) & set(of_process_one)
    monkeypatch.delenv("LOCAL_RANK")
    for name, value in {
        "NTASKS": "2",
        "NTASKS_PER_NODE": "2",
        "PROCID": "1",
        "LOCALID": "1",
        "NODEID": "0",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert first_draws() == of_process_one and not is_process_zero()


@pytest.mark.slow
def test_beats_that_drops_layers_learns_on_two_processes(
    prepared: str,
    environment: dict[str, str],
    folder: Path,
    golden_folder: Path,
    write_beats_file: Callable[..., Path],
) -> None:
    cfg = torch.load(golden_folder / "beats_tiny.pt", weights_only=True)["cfg"] | {"encoder_layerdrop": 0.5}
    fields = [
        f"--prepare_run={prepared}",
        f"--beats_ssl_file={write_beats_file(folder / 'dropping.pt', cfg)}",
    ]
    fields += [
        "--optim.max_epochs=2",
        "--optim.warmup_epochs=0",
        "--optim.batch_size=2",
        "--trainer.accelerator=cpu",
    ]
    fields += ["--trainer.workers=0", "--trainer.progress_bar=false"]
    run_to_its_end([sys.executable, "-m", "adaptf.mlproject.teacher", *fields], environment, folder)
    (run,) = [run for run in runs_of("teacher") if run.data.tags["adaptf.teacher_model"] == "beats"]
    assert len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")) == 2


@pytest.mark.slow
def test_two_processes_fine_tune_one_device_after_the_other(
    command: list[str], prepared: str, environment: dict[str, str], folder: Path
) -> None:
    run_to_its_end(
        [*command, "--optim.max_epochs=1", "--optim.restart_epochs=1", "--seed=1"], environment, folder
    )
    start = mlflow.artifacts.download_artifacts(
        run_id=runs_of("train")[0].info.run_id, artifact_path="checkpoints/best.ckpt"
    )
    fields = [
        f"--prepare_run={prepared}",
        f"--distill_run={start}",
        "--teacher_runs=none",
        "--min_clips=1",
        "--min_validation_clips=1",
        "--devices=a,b",
    ]
    fields += [
        "--optim.max_epochs=1",
        "--optim.batch_size=4",
        "--trainer.accelerator=cpu",
        "--trainer.workers=0",
    ]
    fields += ["--trainer.progress_bar=false"]
    run_to_its_end([sys.executable, "-m", "adaptf.mlproject.finetune", *fields], environment, folder)
    (run,) = runs_of("finetune")
    models = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/models.json"))
    assert set(models) == {"a", "b", "unknown"}
    assert set(models.values()) == {child.info.run_id for child in runs_of("finetune_device")}
    assert {f"kept/accuracy/{device}" for device in models} <= set(run.data.metrics)
