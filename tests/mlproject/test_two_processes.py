"""Training on two processes of one machine."""

import os
import subprocess
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from adaptf.tracking.runs import STAGE

TWO_PROCESSES = ["--trainer.devices=2", "--trainer.strategy=ddp", "--optim.max_epochs=2", "--optim.restart_epochs=2"]


def runs_of_train() -> list[Run]:
    found: list[Run] = mlflow.search_runs(
        search_all_experiments=True, filter_string=f"tags.`{STAGE}` = 'train'", output_format="list"
    )
    return found


@pytest.mark.slow
def test_two_processes_write_one_run(command: list[str], environment: dict[str, str], folder: Path) -> None:
    done = subprocess.run([*command, *TWO_PROCESSES], capture_output=True, text=True, env=environment, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (run,) = runs_of_train()
    assert run.info.status == "FINISHED"
    assert done.stdout.count(f"train finished: run {run.info.run_id}") == 1
    client = mlflow.MlflowClient()
    for metric in ("val/accuracy", "val/loss", "train/loss"):
        assert len(client.get_metric_history(run.info.run_id, metric)) == 2, metric
    assert {entry.path for entry in client.list_artifacts(run.info.run_id, "checkpoints")} == {
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    }
    assert not list((folder / "work").glob("train-*/"))
    assert os.listdir(folder / "artifacts")
