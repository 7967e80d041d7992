"""Ends of stages that something stands in the way of:
each run says what became of it, and nothing hides why."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from fixtures.toy_stage import OUTER, TOY, ToyConfig
from mlflow.entities import Run

from adaptf.pipeline import stage as stages
from adaptf.pipeline.stage import Stage, execute
from adaptf.sweeps import trial as trials
from adaptf.tracking import lease, runs
from adaptf.tracking.lease import Busy


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else wants these runs."""
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.0)


def runs_with(seed: int) -> dict[str, Run]:
    """By stage, those of this work."""
    found: list[Run] = mlflow.search_runs(
        [runs.experiment_id()], f"params.seed = '{seed}'", output_format="list"
    )
    return {run.data.tags[runs.STAGE]: run for run in found}


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*given: Any, **named: Any) -> Any:
        raise error

    return fail


def test_a_run_that_its_holder_has_finished_meanwhile_is_not_begun_again(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = mlflow.get_run(execute(TOY, ToyConfig(seed=201)))
    monkeypatch.setattr(runs, "find_interrupted", lambda stage, fingerprint: done)  # as it was a moment ago
    with pytest.raises(Busy, match=f"has just finished this, in run {done.info.run_id}"):
        execute(TOY, ToyConfig(seed=201))
    assert mlflow.get_run(done.info.run_id).data.tags == {**done.data.tags, lease.OWNER: ""}
    assert runs.finished_run(done.info.run_id).info.end_time == done.info.end_time


def test_why_a_run_could_not_end_stands_in_that_run(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    end = runs._end

    def refuse_once_active(run_id: str, status: str) -> None:
        if (run_id, status) == (runs_with(202)["toy"].info.run_id, "FINISHED"):
            mlflow.end_run()  # MLflow forgets it before the request, which fails
            mlflow.MlflowClient().update_run(run_id, "RUNNING")
            raise OSError("no room for the status")
        end(run_id, status)

    monkeypatch.setattr(runs, "_end", refuse_once_active)
    with pytest.raises(OSError, match="no room for the status"):
        execute(OUTER, ToyConfig(seed=202))
    made = runs_with(202)
    assert {stage: run.info.status for stage, run in made.items()} == {"toy": "FAILED", "outer": "FAILED"}
    assert "no room for the status" in mlflow.artifacts.load_text(
        f"runs:/{made['toy'].info.run_id}/error.txt"
    )
    assert mlflow.active_run() is None


def test_an_error_while_ctrl_c_is_noted_does_not_hide_it(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted = replace(TOY, run=raising(KeyboardInterrupt()))
    monkeypatch.setattr(runs, "_end", raising(OSError("the server went away")))
    with pytest.raises(KeyboardInterrupt):
        execute(interrupted, ToyConfig(seed=203))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_waits_for_no_server_in_a_trial_of_a_sweep_either(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (stages, trials):
        monkeypatch.setattr(module, "answers", lambda: False)
    monkeypatch.setattr(trials, "patiently", raising(AssertionError("it waits for the server")))
    monkeypatch.setattr(runs, "patiently", raising(AssertionError("it waits for the server")))
    interrupted: Stage[Any] = replace(TOY, run=raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        execute(trials._as_trial(interrupted, {}, begun=lambda run_id: None), ToyConfig(seed=204))


OUTLIVING = """
import subprocess, sys, time
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from adaptf.training.group import outlive_the_others
import os
child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(9)"])
_ChildProcessObserver(os.getpid(), [child], sleep_period=1).start()
if "outlive" in sys.argv:
    outlive_the_others()
child.wait()
time.sleep(3)
print("its runs are ended")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("word", "code"), [("outlive", 0), ("", -signal.SIGKILL)])
def test_process_zero_outlives_the_others_while_it_ends_its_runs(
    word: str, code: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUTLIVING, word], env=dict(os.environ), capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert ("its runs are ended" in done.stdout) == (code == 0)
