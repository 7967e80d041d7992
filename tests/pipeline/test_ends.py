"""Ends of stages that something stands in the way of:
each run says what became of it, and nothing hides why."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import mlflow
import pytest
from fixtures.toy_stage import OUTER, TOY, ToyConfig
from mlflow.entities import Run

from adaptf.pipeline import interrupts
from adaptf.pipeline import stage as stages
from adaptf.pipeline.interrupts import last_words
from adaptf.pipeline.stage import Stage, execute
from adaptf.sweeps import trial as trials
from adaptf.tracking import lease, outcome, runs
from adaptf.tracking.lease import Busy, LeaseLost
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import STAGE


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else wants these runs."""
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.0)


def runs_with(seed: int) -> dict[str, Run]:
    """By stage, those of this work."""
    found: list[Run] = mlflow.search_runs(
        [runs.experiment_id()], f"params.seed = '{seed}'", output_format="list"
    )
    return {run.data.tags[STAGE]: run for run in found}


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
    end = outcome._end

    def refuse_once_active(run_id: str, status: str) -> None:
        if (run_id, status) == (runs_with(202)["toy"].info.run_id, "FINISHED"):
            mlflow.end_run()  # MLflow forgets it before the request, which fails
            mlflow.MlflowClient().update_run(run_id, "RUNNING")
            raise OSError("no room for the status")
        end(run_id, status)

    monkeypatch.setattr(outcome, "_end", refuse_once_active)
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
    monkeypatch.setattr(outcome, "_end", raising(OSError("the server went away")))
    with pytest.raises(KeyboardInterrupt):
        execute(interrupted, ToyConfig(seed=203))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_exit_code_tells_a_scheduler_what_ended_a_stage_whose_run_is_free_at_once(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["toy", f"--seed={code}"])
    monkeypatch.setattr(interrupts, "_terminated", Event())
    former = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            replace(TOY, run=lambda config, run: signal.raise_signal(number)).main()
    finally:
        signal.signal(signal.SIGTERM, former)
    assert ended.value.code == code
    run = runs_with(code)["toy"]
    assert (run.info.status, run.data.tags[lease.OWNER]) == ("KILLED", "")


def test_ctrl_c_waits_for_no_server_in_a_trial_of_a_sweep_either(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "answers", lambda: False)
    monkeypatch.setattr(trials, "patiently", raising(AssertionError("it waits for the server")))
    monkeypatch.setattr(outcome, "patiently", raising(AssertionError("it waits for the server")))
    interrupted: Stage[Any] = replace(TOY, run=raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        execute(trials._as_trial(interrupted, {}, begun=lambda run_id: None), ToyConfig(seed=204))


def test_ctrl_c_gives_a_server_that_hangs_ten_seconds_for_all_of_its_runs(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    until: list[float] = []

    def hang(interrupt: BaseException, say: object) -> None:
        last_words(interrupt, lambda: over.wait(60) and ended.append("in time"))
        until.append(vars(interrupt)["until"])

    over, ended = Event(), list[str]()
    monkeypatch.setattr(interrupts, "LAST_SECONDS", 0.1)
    monkeypatch.setattr(stages, "last_words", hang)
    inner: Stage[Any] = replace(TOY, run=raising(KeyboardInterrupt()))
    outer: Stage[Any] = replace(OUTER, run=lambda config, run: execute(inner, config))
    with pytest.raises(KeyboardInterrupt):
        execute(outer, ToyConfig(seed=206))
    assert not ended and len(until) == 2 and len(set(until)) == 1
    over.set()


def test_a_run_that_was_deleted_meanwhile_says_so_and_goes_on_once_it_is_restored(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def deletes(config: ToyConfig, run: StageRun) -> Result:
        mlflow.MlflowClient().delete_run(run.run_id)
        return Result()

    with pytest.raises(
        LeaseLost, match=r"run (\w+) was deleted while .*restored, the same command goes"
    ) as lost:
        execute(replace(TOY, run=deletes), ToyConfig(seed=207))
    (run_id,) = re.findall(r"run (\w{32}) ", str(lost.value))
    mlflow.MlflowClient().restore_run(run_id)
    monkeypatch.setattr(lease, "is_alive", raising(AssertionError("it waits for a sign of life")))
    assert execute(TOY, ToyConfig(seed=207)) == run_id


def test_where_the_run_around_it_was_lost_a_run_is_ended_and_free(environment: dict[str, str]) -> None:
    def loses(config: ToyConfig, run: StageRun) -> Result:
        outer = lease._held[0]
        mlflow.MlflowClient().set_tag(outer.run_id, lease.OWNER, "x process 1 on elsewhere since 2")
        with suppress(LeaseLost):
            outer.beat()
        run.epoch_metrics().note({"train/loss": 1.0}, step=0)
        raise AssertionError("the training goes on")

    lost: Stage[Any] = replace(OUTER, run=lambda config, run: execute(replace(TOY, run=loses), config))
    with pytest.raises(LeaseLost, match="taken over by process 1 on elsewhere since 2"):
        execute(lost, ToyConfig(seed=208))
    found = {stage: (run.info.status, run.data.tags[lease.OWNER]) for stage, run in runs_with(208).items()}
    assert found == {"toy": ("FAILED", ""), "outer": ("RUNNING", "x process 1 on elsewhere since 2")}


def test_nobody_waits_for_a_holder_that_was_killed_in_the_same_folder_however_early(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = raising(SystemExit("kill -9"))
    monkeypatch.setattr(lease, "is_alive", raising(AssertionError("it waits for a sign of life")))
    for owner, name in ((stages, "Lease"), (lease.time, "sleep"), (lease.mlflow.MlflowClient, "set_tag")):
        with monkeypatch.context() as patch, pytest.raises(SystemExit, match="kill -9"):
            patch.setattr(owner, name, killed)
            execute(TOY, ToyConfig(seed=209))
    execute(TOY, ToyConfig(seed=209))
    assert runs_with(209)["toy"].info.status == "FINISHED"


def test_an_error_of_mlflow_tells_no_password_at_the_end_of_a_stage(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    away = RuntimeError("API request to http://me:secret@host/api failed")
    monkeypatch.setattr(sys, "argv", ["toy", "--seed=205"])
    with pytest.raises(SystemExit) as ended:
        replace(TOY, run=raising(away)).main()
    written = mlflow.artifacts.load_text(f"runs:/{runs_with(205)['toy'].info.run_id}/error.txt")
    for text in (str(ended.value), written):
        assert "Traceback" in text and "API request to http://me@host/api failed" in text


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
