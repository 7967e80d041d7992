"""Metrics that wait in the work folder: whole after a kill, and sent once."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Metric

from adaptf.tracking.epoch_metrics import EpochMetrics, send
from adaptf.tracking.lease import LeaseLost


@pytest.fixture(autouse=True)
def store(database: Path) -> Iterator[None]:
    former = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    yield
    mlflow.set_tracking_uri(former)


@pytest.fixture
def run_id() -> str:
    return str(mlflow.MlflowClient().create_run("0").info.run_id)


def history(run_id: str, name: str) -> list[Metric]:
    found: list[Metric] = mlflow.MlflowClient().get_metric_history(run_id, name)
    return sorted(found, key=lambda entry: entry.step)


def note(folder: Path, losses: dict[int, float]) -> None:
    """As a process does."""
    metrics = EpochMetrics(folder, check=lambda: None)
    for step, loss in losses.items():
        metrics.note({"train/loss": loss}, step)
        metrics.note({"val/loss": float("nan")}, step)


def test_a_resumed_run_sends_what_was_left_and_nothing_twice(run_id: str, tmp_path: Path) -> None:
    note(tmp_path, {1: 0.1, 2: 0.2})
    send(tmp_path, run_id)
    first = history(run_id, "train/loss")
    note(tmp_path, {3: 0.3})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"key": "train/lo')  # killed in the middle of a line
    note(tmp_path, {2: 0.25, 3: 0.35, 4: 0.4})  # epochs that are trained again
    send(tmp_path, run_id)
    send(tmp_path, run_id)
    (tmp_path / "metrics.sent").unlink()  # killed before it was noted that they had gone
    send(tmp_path, run_id)
    entries = history(run_id, "train/loss")
    assert [(entry.step, entry.value) for entry in entries] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert entries[:2] == first
    assert len(history(run_id, "val/loss")) == 4


def test_a_run_that_goes_on_from_another_ones_work_folder_gets_all(run_id: str, tmp_path: Path) -> None:
    note(tmp_path, {1: 0.1, 2: 0.2})
    send(tmp_path, run_id)
    mlflow.MlflowClient().delete_run(run_id)
    other = mlflow.MlflowClient().create_run("0").info.run_id
    send(tmp_path, other)
    assert [entry.value for entry in history(other, "train/loss")] == [0.1, 0.2]


def test_nothing_is_noted_for_a_run_that_another_process_has(tmp_path: Path) -> None:
    def lost() -> None:
        raise LeaseLost("taken over")

    with pytest.raises(LeaseLost):
        EpochMetrics(tmp_path, check=lost).note({"train/loss": 0.1}, 1)
    assert not list(tmp_path.iterdir())
