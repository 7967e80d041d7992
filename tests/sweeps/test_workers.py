"""Four workers with PostgreSQL, one of which is killed in mid trial:
no trial is run by two, and nothing is lost."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import mlflow
import optuna
import pytest
import torch
from fixtures.store import in_store
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from adaptf.mlproject.sweep import SWEEP, SweepConfig
from adaptf.mlproject.train import TrainConfig
from adaptf.pipeline.stage import execute
from adaptf.sweeps.search import SearchConfig
from adaptf.sweeps.storage import open_storage
from adaptf.sweeps.tries import ended, first_number, last_tries, tries

WORKERS, TRIALS, EPOCHS = 4, 16, 9
SPACE = "optim.lr: {low: 0.001, high: 0.02, log: true}\naugment.mixup_alpha: {low: 0.0, high: 0.6}\n"


@pytest.fixture(scope="module")
def environment(postgresql: str, folder: Path) -> Iterator[dict[str, str]]:
    """As in conftest, with MLflow's store in PostgreSQL too: SQLite takes one writer at a time."""
    uri = postgresql.replace("DATABASE", "mlflow")
    subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", uri], check=True, capture_output=True, timeout=120
    )
    torch.set_num_threads(1)
    stages = {"ADAPTF_WORK": str(folder / "work"), "OMP_NUM_THREADS": "1"}
    with in_store(uri, folder / "artifacts", **stages) as variables:
        yield variables


def work(config: SweepConfig, output: Path, environment: dict[str, str]) -> None:
    """A worker, in a process of its own."""
    os.environ.update(environment)
    with open(output, "w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    execute(SWEEP, config)


@pytest.fixture(scope="module")
def config(train_config: TrainConfig, postgresql: str, folder: Path) -> SweepConfig:
    (folder / "space.yaml").write_text(SPACE)
    search = SearchConfig(
        study="kd",
        storage=postgresql.replace("DATABASE", "sweeps"),
        trials=TRIALS,
        space=str(folder / "space.yaml"),
        min_epochs=3,
        heartbeat_seconds=2,
    )
    settings = replace(
        train_config, optim=replace(train_config.optim, max_epochs=EPOCHS, restart_epochs=EPOCHS)
    )
    return SweepConfig(stage="train", sweep=search, train=settings)


@pytest.fixture(scope="module")
def outputs(config: SweepConfig, environment: dict[str, str], folder: Path) -> list[str]:
    """What the workers said; the first of them was killed as it was in its second trial."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["adaptf.mlproject.sweep"])
    paths = [folder / f"worker{number}.txt" for number in range(WORKERS)]
    processes = [context.Process(target=work, args=(config, path, environment)) for path in paths]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(
            str(Path(__file__).parents[2])
        )  # the processes look for this module where this one does
        for process in processes:
            process.start()
    wait_for_second_trial(paths[0], processes[0])
    os.kill(processes[0].pid or 0, signal.SIGKILL)
    for process, path in zip(processes, paths, strict=True):
        process.join(timeout=180)
        assert process.exitcode == (-signal.SIGKILL if process is processes[0] else 0), path.read_text()
    return [path.read_text() for path in paths]


def wait_for_second_trial(output: Path, process: ForkServerProcess) -> None:
    """Until the second epoch of the trial that follows one that is over."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        _, over, later = (output.read_text() if output.exists() else "").partition(f" of {TRIALS}: ")
        if over and f"epoch 2/{EPOCHS}" in later:
            return
        assert process.is_alive(), output.read_text()
        time.sleep(0.02)
    raise AssertionError(output.read_text())


@pytest.fixture(scope="module")
def study(outputs: list[str], config: SweepConfig) -> optuna.Study:
    return optuna.load_study(study_name="kd", storage=open_storage(config.sweep))


@pytest.fixture(scope="module")
def trial_runs(outputs: list[str]) -> list[Run]:
    found: list[Run] = mlflow.search_runs(
        search_all_experiments=True, filter_string="tags.`adaptf.study` = 'kd'", output_format="list"
    )
    return found


@pytest.mark.slow
def test_the_budget_is_used_and_exceeded_by_other_workers_last_trials_at_most(study: optuna.Study) -> None:
    assert TRIALS <= ended(study) < TRIALS + WORKERS


@pytest.mark.slow
def test_the_lost_trial_is_run_again_with_its_values(study: optuna.Study) -> None:
    again = [trial for trial in last_tries(study) if tries(trial) > 1]
    assert again  # one; more where the machine was so busy that no sign of life came for long
    for trial in again:
        lost = study.trials[first_number(trial)]
        assert lost.state == TrialState.FAIL and is_over(trial)
        assert trial.params == lost.params


@pytest.mark.slow
def test_no_values_are_tried_twice(study: optuna.Study) -> None:
    trials = last_tries(study)
    assert len({tuple(trial.params.values()) for trial in trials}) == len(trials)


@pytest.mark.slow
def test_each_trial_has_one_run_under_the_studys_own(study: optuna.Study, trial_runs: list[Run]) -> None:
    found = [run for run in trial_runs if run.data.tags["adaptf.trial.state"] in ("complete", "pruned")]
    numbers = [int(run.data.tags["adaptf.trial"]) for run in found]
    assert sorted(numbers) == [first_number(trial) for trial in last_tries(study) if is_over(trial)]
    assert {run.info.status for run in found} <= {"FINISHED", "KILLED"}
    assert len({run.data.tags["mlflow.parentRunId"] for run in trial_runs}) == 1


def is_over(trial: FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


@pytest.mark.slow
def test_every_worker_and_the_studys_run_tell_the_result(trial_runs: list[Run]) -> None:
    sweeps: list[Run] = mlflow.search_runs(
        search_all_experiments=True, filter_string="tags.`adaptf.stage` = 'sweep'", output_format="list"
    )
    assert len(sweeps) == WORKERS
    done = [run for run in sweeps if run.info.status == "FINISHED"]
    assert trial_runs[0].data.tags["mlflow.parentRunId"] in {run.info.run_id for run in done}
    assert len(done) >= WORKERS - 1
    over = [run.data.metrics["trials/complete"] + run.data.metrics["trials/pruned"] for run in done]
    assert all(TRIALS <= trials < TRIALS + WORKERS for trials in over)
