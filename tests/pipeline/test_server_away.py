"""A real MLflow server that dies while a stage works, and comes back:
training goes on, and nothing is missing."""

import os
import signal
import subprocess
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from fixtures.serving import free_port, outside_environment, wait_until_healthy
from fixtures.store import in_store
from fixtures.toy_stage import OUTER, TOY, ToyConfig

from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.stage import Stage, execute
from adaptf.tracking import lease, server
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun

pytestmark = pytest.mark.slow
EPOCHS = 6


class Server:
    """On one port and one store; killing it is no farewell."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.port, self.folder = free_port(), folder
        self.address = f"http://127.0.0.1:{self.port}"
        self.command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *(
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--backend-store-uri",
                f"sqlite:///{database}",
            ),
            *("--artifacts-destination", (folder / "artifacts").as_uri()),
        ]
        self.start()

    def start(self) -> None:
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=outside_environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                start_new_session=True,
            )
        wait_until_healthy(self.address, self.process, log, limit_seconds=600)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def mlflow_server(folder: Path, database: Path) -> Iterator[Server]:
    started = Server(folder, database)
    yield started
    started.kill()


@pytest.fixture(scope="module")
def environment(mlflow_server: Server, folder: Path) -> Iterator[dict[str, str]]:
    """That of stages, with this server as their store."""
    torch.set_num_threads(1)
    with in_store(mlflow_server.address, ADAPTF_WORK=str(folder / "work")) as variables:
        yield variables


@pytest.fixture
def comes_back_when_missed(mlflow_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as the stage says that it waits for it."""

    def bring_back() -> None:
        try:
            mlflow_server.start()
        except Exception:
            interrupt_main()  # it would wait for ever
            raise

    def said(*words: Any, **how: Any) -> None:
        print(*words, **how)
        if "does not answer:" in str(words[0]):  # the first time that it says so
            threading.Thread(target=bring_back).start()

    monkeypatch.setattr(server, "print", said, raising=False)


def sent(epochs: int) -> bool:
    (run,) = mlflow.search_runs(
        search_all_experiments=True, filter_string="tags.`adaptf.stage` = 'train'", output_format="list"
    )
    return len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "val/accuracy")) >= epochs


def test_a_training_goes_on_without_its_server_and_waits_for_it_at_the_end(
    mlflow_server: Server,
    comes_back_when_missed: None,
    train_config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)

    def watch(epoch: int, score: float) -> None:
        if epoch in (2, EPOCHS):
            mlflow_server.kill()
        if epoch == 4:
            mlflow_server.start()
            until = time.monotonic() + 300
            while not sent(3):
                assert time.monotonic() < until
                time.sleep(0.1)

    optim = replace(train_config.optim, max_epochs=EPOCHS, restart_epochs=EPOCHS)
    run_id = execute(TRAIN, replace(train_config, optim=optim), watch=watch)
    said = capsys.readouterr().out
    assert "The tracking server does not answer" in said and "the end of train" in said
    run, client = mlflow.get_run(run_id), mlflow.MlflowClient()
    assert run.info.status == "FINISHED" and "best/accuracy" in run.data.metrics
    for name in ("train/loss", "val/accuracy", "val/loss", "epoch"):
        assert len(client.get_metric_history(run_id, name)) == EPOCHS, name
    left = {entry.path for entry in client.list_artifacts(run_id)}
    assert left == {"checkpoints", "config.yaml", "validation"}


def test_a_stage_within_another_one_waits_for_the_server_before_it_begins(
    mlflow_server: Server,
    environment: dict[str, str],
    comes_back_when_missed: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def goes_away(config: ToyConfig, run: StageRun) -> Result:
        mlflow_server.kill()
        return Result(parts=[execute(TOY, config)])

    run_id = execute(replace(OUTER, run=goes_away), ToyConfig())
    assert "The tracking server does not answer: the begin of toy waits for it" in capsys.readouterr().out
    assert mlflow.get_run(run_id).info.status == "FINISHED"


def test_why_a_stage_failed_is_kept_for_a_server_that_is_away(
    mlflow_server: Server,
    comes_back_when_missed: None,
    train_config: TrainConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(config: TrainConfig, run: StageRun) -> Result:
        run_ids.append(run.run_id)
        mlflow_server.kill()
        raise RuntimeError("power cut")

    run_ids: list[str] = []
    stage: Callable[..., Any] = Stage("stage_that_fails", run=fails, config=TrainConfig)
    with pytest.raises(RuntimeError, match="power cut"):
        execute(stage, train_config)
    assert "RuntimeError: power cut" in capsys.readouterr().out  # at once: the server may be away for long
    run = mlflow.get_run(run_ids[0])
    assert run.info.status == "FAILED"
    assert "power cut" in mlflow.artifacts.load_text(f"{run.info.artifact_uri}/error.txt")
