"""Metrics of epochs wait in a file of the work folder until the store has them, so training needs no server.

MLflow's own asynchronous logging keeps them in memory and drops those of a request that failed.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import mlflow
from mlflow.entities import Metric
from mlflow.utils.validation import _validate_metric

from adaptf.files import blocks_of, write_atomically

_METRICS, _SENT = "metrics.jsonl", "metrics.sent"
"""One metric a line; and the run to which they go, with the number of lines that it has."""
_FIELDS = ("key", "value", "timestamp", "step")
_BATCH = 1000
"""What MLflow takes at once."""


class EpochMetrics:
    """Notes each metric of each step once: an epoch that is trained again keeps its first values."""

    def __init__(self, folder: Path, check: Callable[[], None]) -> None:
        """`check` is called before each writing; what it raises ends the training."""
        self._path, self._check = folder / _METRICS, check
        self._noted: set[tuple[str, int]] | None = None

    def note(self, metrics: Mapping[str, float], step: int) -> None:
        """Returns as soon as they are in the file. Raises MlflowException for a name that MLflow refuses."""
        self._check()
        if self._noted is None:
            self._noted = {(metric.key, metric.step) for metric in _whole_lines_of(self._path)}
        now = int(time.time() * 1000)
        found = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        _append(self._path, [metric for metric in found if (metric.key, metric.step) not in self._noted])
        self._noted |= {(metric.key, metric.step) for metric in found}


def _append(path: Path, metrics: Sequence[Metric]) -> None:
    """Raises MlflowException for a name that MLflow does not take:
    at the end of a training it is too late for that."""
    for metric in metrics:
        _validate_metric(metric.key, metric.value, metric.timestamp, metric.step)
    with open(path, "a") as file:
        file.writelines(
            f"{json.dumps({name: getattr(metric, name) for name in _FIELDS})}\n" for metric in metrics
        )


def _whole_lines_of(path: Path) -> list[Metric]:
    """What an interrupted process noted. A line that it did not finish is cut off."""
    if not path.is_file():
        return []
    whole = path.read_bytes().rpartition(b"\n")
    os.truncate(path, len(whole[0]) + len(whole[1]))
    return _noted(path)


def _noted(path: Path) -> list[Metric]:
    """The metrics of whole lines."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [Metric(**json.loads(line)) for line in lines if line.endswith("\n")]


def send(folder: Path, run_id: str) -> None:
    """Brings to the run what it does not have yet.
    Sent again, after a kill in between, a metric is the same to MLflow."""
    metrics, sent = _noted(folder / _METRICS), _sent(folder, run_id)
    for block in blocks_of(metrics[sent:], _BATCH):
        mlflow.MlflowClient().log_batch(run_id, metrics=block, synchronous=True)
        sent += len(block)
        write_atomically(folder / _SENT, json.dumps([run_id, sent]).encode())


def _sent(folder: Path, run_id: str) -> int:
    """How many the run has: a run that goes on from the work folder of another one, deleted since,
    has none."""
    if not (folder / _SENT).is_file():
        return 0
    to, lines = json.loads((folder / _SENT).read_text())
    return int(lines) if to == run_id else 0
