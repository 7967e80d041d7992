"""A stage that was begun by `mlflow run`:
however it is ended no run says that it still runs, and it goes on in its run."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from fixtures import toy_stage
from fixtures.toy_stage import EPOCHS, WAITS
from mlflow.entities import Run

from adaptf.tracking import runs
from adaptf.tracking.tags import CONTINUES, STAGE

ENDED = {"KILLED", "FAILED"}
"""The stage's own word, or that of `mlflow run`, where it had looked before."""
PROJECT = """name: toy
entry_points:
  main:
    command: {python} {program}
"""


@pytest.fixture
def mlflow_run(environment: dict[str, str], folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `mlflow run` on the toy, as a terminal does."""
    project, started = folder / "project", []
    project.mkdir()
    (project / "MLproject").write_text(PROJECT.format(python=sys.executable, program=toy_stage.__file__))

    def start(**variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mlflow", "run", str(project), "--env-manager", "local"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        given = {"env": environment | variables, "cwd": folder, "text": True, "start_new_session": True}
        started.append(subprocess.Popen(command, **streams, **given))  # type: ignore[call-overload]
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def said_until(process: subprocess.Popen[str], words: str) -> list[str]:
    """The lines up to one with these words, or all of them."""
    said: list[str] = []
    assert process.stdout
    for line in process.stdout:
        said.append(line)
        if words in line:
            break
    return said


def all_runs() -> list[Run]:
    found: list[Run] = mlflow.search_runs([runs.experiment_id()], output_format="list")
    return found


def statuses() -> set[str]:
    return {run.info.status for run in all_runs()}


@pytest.mark.slow
def test_mlflow_run_goes_on_in_the_runs_that_were_ended(
    mlflow_run: Callable[..., subprocess.Popen[str]],
) -> None:
    process = mlflow_run(**{WAITS: "yes"})
    assert "toy epoch 1" in said_until(process, "toy epoch")[-1]
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches both processes
    said = "".join(said_until(process, "nothing says this"))
    assert process.wait(300) != 0 and "outer: interrupted. The same command goes on from there" in said
    begun = {run.data.tags[STAGE]: run.info.run_id for run in all_runs()}
    assert statuses() <= ENDED and begun.keys() == {"outer", "toy"}

    process = mlflow_run(**{WAITS: "yes"})
    said = "".join(said_until(process, "toy epoch"))
    assert f"outer: continues run {begun['outer']}" in said and f"toy: continues run {begun['toy']}" in said
    process.send_signal(signal.SIGTERM)  # to `mlflow run` alone, which does not tell its command
    assert "toy epoch 2" in said and "toy epoch 1" not in said
    said_until(process, "nothing says this")  # until both have ended
    assert (
        statuses() <= {*ENDED, "FINISHED"}
        and {mlflow.get_run(one).info.status for one in begun.values()} <= ENDED
    )

    process = mlflow_run()
    said = "".join(said_until(process, "nothing says this"))
    assert process.wait(300) == 0, said
    assert f"outer finished: run {begun['outer']}" in said
    by_stage = {run.info.run_id: run.data.tags.get(STAGE) for run in all_runs()}
    assert sorted(map(str, by_stage.values())) == ["None", "None", "outer", "toy"]
    assert statuses() == {"FINISHED"}
    made = re.findall(r"Run \(ID '(\w+)'\) succeeded", said)
    assert [mlflow.get_run(run_id).data.tags[CONTINUES] for run_id in made] == [begun["outer"]]
    history = mlflow.MlflowClient().get_metric_history(begun["toy"], "train/loss")
    assert [entry.step for entry in history] == list(range(EPOCHS))
