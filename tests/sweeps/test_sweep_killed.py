"""A sweep whose process was killed goes on with the same command:
its lost trial too, in its run, from its checkpoint."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.entities import Run

EPOCHS, TRIALS = 8, 3


@pytest.fixture
def sweeping(command: list[str], folder: Path) -> list[str]:
    """Three trials of `train`, as a command."""
    (folder / "space.yaml").write_text("optim.lr: {low: 0.001, high: 0.02, log: true}\n")
    (prepared,) = [argument for argument in command if argument.startswith("--prepare_run=")]
    shared = [argument for argument in command if argument.startswith(("--mel.", "--model.", "--trainer."))]
    fields = {
        "stage": "train",
        "pretrain_run": "none",
        "train.optim.batch_size": "8",
        "train.optim.max_epochs": str(EPOCHS),
        "train.optim.restart_epochs": str(EPOCHS),
        "sweep.trials": str(TRIALS),
        "sweep.pruner": "none",
        "sweep.heartbeat_seconds": "1",
        "sweep.space": str(folder / "space.yaml"),
    }
    given = [f"--{name}={value}" for name, value in fields.items()]
    return [sys.executable, "-m", "adaptf.mlproject.sweep", prepared, *shared, *given]


def runs_of(condition: str) -> list[Run]:
    found: list[Run] = mlflow.search_runs(
        search_all_experiments=True, filter_string=condition, output_format="list"
    )
    return found


def is_in_second_trial(said: list[str]) -> bool:
    return f"epoch 3/{EPOCHS}" in said[-1] and any(f"1 of {TRIALS}: " in line for line in said[:-1])


@pytest.mark.slow
def test_a_killed_sweep_is_resumed_with_the_same_command(
    sweeping: list[str],
    environment: dict[str, str],
    folder: Path,
    kill_when: Callable[[list[str], Callable[[list[str]], bool]], str],
) -> None:
    kill_when(sweeping, is_in_second_trial)
    assert (folder / "sweeps.db").is_file()  # beside the store
    (lost,) = runs_of("tags.`adaptf.trial` = '1'")
    assert lost.info.status == "RUNNING"

    time.sleep(4)  # until its heartbeat has stayed away for long enough
    done = subprocess.run(sweeping, capture_output=True, text=True, env=environment, cwd=folder, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"continues run {lost.info.run_id}" in done.stdout
    of_trial = done.stdout.split(f"2 of {TRIALS}: ")[0]
    assert int(re.findall(rf"epoch (\d+)/{EPOCHS}", of_trial)[0]) >= 3  # from its checkpoint

    trials = runs_of("tags.`adaptf.study` = 'train'")
    assert sorted((run.data.tags["adaptf.trial"], run.info.status) for run in trials) == [
        (str(number), "FINISHED") for number in (0, 1, 3)
    ]
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in trials}
    first = mlflow.get_run(parent)
    assert (first.info.status, first.data.metrics["trials/complete"]) == ("FINISHED", TRIALS)
    path = mlflow.artifacts.download_artifacts(run_id=parent, artifact_path="trials.csv")
    assert list(pd.read_csv(path)["tries"]) == [1, 2, 1]
