"""Two machines, so two work folders, with one store in PostgreSQL: a run belongs to one process at a time."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import mlflow
import pytest
from fixtures.store import in_store
from mlflow.entities import Run, ViewType

from adaptf.pipeline.stage import Stage, execute
from adaptf.tracking import lease, runs
from adaptf.tracking.lease import Busy
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun

pytestmark = pytest.mark.slow
EXPERIMENT = "leases"


@dataclass(frozen=True)
class Machine:
    """Where a process works, and what it and the test tell each other by files there."""

    place: Path
    process: ForkServerProcess | None = None

    def wait_for(self, name: str) -> None:
        wait_until(lambda: self.said(name), self)

    def said(self, name: str) -> bool:
        return (self.place / name).exists()

    def say(self, name: str) -> None:
        (self.place / name).touch()

    def output(self) -> str:
        path = self.place / "output.txt"
        return path.read_text() if path.exists() else ""


def wait_until(true: Callable[[], bool], machine: Machine) -> None:
    until = time.monotonic() + 120
    while not true():
        assert time.monotonic() < until, machine.output()
        time.sleep(0.02)


@dataclass(frozen=True)
class Config:
    """Tells one run from another."""

    case: str = ""


def two_epochs(config: Config, run: StageRun) -> Result:
    """Between its epochs it waits for the word to go on, where it is asked to."""
    here = Machine(Path(os.environ["ADAPTF_WORK"]))
    metrics = run.epoch_metrics()
    metrics.note({"train/process": os.getpid()}, step=0)
    here.say("begun")
    if here.said("wait"):
        here.wait_for("go on")
    metrics.note({"train/process": os.getpid()}, step=1)
    path = run.folder / f"of {os.getpid()}.txt"
    path.touch()
    return Result(metrics={"process": os.getpid()}, files={path.name: path})


STAGE = Stage("two_epochs", run=two_epochs, config=Config)


def make_impatient() -> None:
    """Seconds instead of minutes; a holder that lives has ten of them to say so."""
    lease.BEAT_SECONDS, lease.LOOK_SECONDS, lease.LOOKS, lease.SETTLE_SECONDS = 0.3, 0.5, 20, 0.5


def work(case: str, place: Path, environment: dict[str, str], racing: int) -> None:
    """The stage, in a process of its own; of a race all begin to make their runs at once."""
    os.environ.update(environment, ADAPTF_WORK=str(place))
    with open(place / "output.txt", "w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    mlflow.set_tracking_uri(environment["MLFLOW_TRACKING_URI"])
    make_impatient()
    find = runs.find_interrupted

    def find_together(stage: str, fingerprint: str) -> Run | None:
        found, here = find(stage, fingerprint), Machine(place)
        here.say("searched")
        wait_until(lambda: len(list(place.parent.glob("*/searched"))) >= racing, here)
        return found

    runs.find_interrupted = find_together
    sys.argv = ["two_epochs", f"--case={case}"]
    STAGE.main()


@pytest.fixture(scope="module")
def store(postgresql: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of all machines."""
    uri, artifacts = postgresql.replace("DATABASE", "mlflow"), tmp_path_factory.mktemp("artifacts")
    with in_store(uri, artifacts, experiment=EXPERIMENT, OMP_NUM_THREADS="1") as variables:
        yield variables


@pytest.fixture
def begin(store: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    """`begin(name, case, *words, racing=0)`: a process with a work folder of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["adaptf.pipeline.stage"])
    machines = []

    def start(name: str, case: str, *words: str, racing: int = 0) -> Machine:
        place = tmp_path / name
        place.mkdir()
        machine = Machine(place, context.Process(target=work, args=(case, place, store, racing)))
        for word in words:
            machine.say(word)
        assert machine.process
        machine.process.start()
        machines.append(machine)
        return machine

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2]))
        yield start
    for machine in machines:
        assert machine.process
        machine.process.kill()
        machine.process.join()


@pytest.fixture
def here(store: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The test's own process, as another machine."""
    for name in ("BEAT_SECONDS", "LOOK_SECONDS", "LOOKS", "SETTLE_SECONDS"):
        monkeypatch.setattr(lease, name, getattr(lease, name))
    make_impatient()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("ADAPTF_WORK", str(tmp_path / "here"))
    return Machine(tmp_path / "here")


def runs_of(case: str, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    found: list[Run] = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string=f"params.`case` = '{case}'",
        output_format="list",
        run_view_type=view,
    )
    return found


def ended(machine: Machine) -> int | None:
    assert machine.process
    machine.process.join(120)
    return machine.process.exitcode


def processes_in(run: Run) -> tuple[list[float], float, list[str]]:
    """By whom its epochs, its end and its artifacts are."""
    client = mlflow.MlflowClient()
    epochs = [entry.value for entry in client.get_metric_history(run.info.run_id, "train/process")]
    files = [entry.path for entry in client.list_artifacts(run.info.run_id)]
    return epochs, run.data.metrics["process"], sorted(files)


def test_who_wakes_from_a_sleep_leaves_the_run_to_whom_has_taken_it_over(
    begin: Callable[..., Machine], here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = begin("sleeper", "sleep", "wait")
    sleeper.wait_for("begun")
    pid = sleeper.process.pid if sleeper.process else 0
    (run,) = runs_of("sleep")
    holder = f"process {pid} on {socket.gethostname()} since 2"
    with pytest.raises(Busy, match=f"{holder}.*run {run.info.run_id}"):
        execute(STAGE, Config("sleep"))
    with monkeypatch.context() as patch:  # as if it had looked before the other one's run was there
        patch.setattr(runs, "find_interrupted", lambda stage, fingerprint: None)
        with pytest.raises(Busy, match=holder):
            execute(STAGE, Config("sleep"))
        patch.setattr(runs, "_age", lambda run: -run.info.start_time)  # and its clock were slow
        with pytest.raises(Busy, match=holder):
            execute(STAGE, Config("sleep"))
    assert [one.info.run_id for one in runs_of("sleep")] == [run.info.run_id]

    os.kill(pid, signal.SIGSTOP)
    assert execute(STAGE, Config("sleep")) == run.info.run_id
    os.kill(pid, signal.SIGCONT)
    sleeper.say("go on")
    assert ended(sleeper) == 1
    said = sleeper.output()
    assert f"run {run.info.run_id} was taken over by" in said and "Traceback" not in said
    (after,) = runs_of("sleep")
    assert after.info.status == "FINISHED"
    epochs, end, files = processes_in(after)
    assert (end, files) == (os.getpid(), ["config.yaml", f"of {os.getpid()}.txt"])
    assert epochs in ([os.getpid()] * 2, [pid, *[os.getpid()] * 2])  # it may have sent one before it slept


def test_the_run_of_a_killed_process_is_taken_over(begin: Callable[..., Machine], here: Machine) -> None:
    killed = begin("killed", "kill", "wait")
    killed.wait_for("begun")
    assert killed.process
    killed.process.kill()
    (run,) = runs_of("kill")
    assert execute(STAGE, Config("kill")) == run.info.run_id
    assert runs_of("kill")[0].info.status == "FINISHED"


def test_of_two_that_make_a_run_at_once_one_works(begin: Callable[..., Machine]) -> None:
    both = [begin(name, "race", "wait", racing=2) for name in ("one", "other")]
    wait_until(lambda: any(machine.said("begun") for machine in both), both[0])
    (works,) = [machine for machine in both if machine.said("begun")]
    (gives_way,) = [machine for machine in both if machine is not works]
    assert ended(gives_way) == 1, gives_way.output()
    works.say("go on")
    assert ended(works) == 0, works.output()
    assert "another process is running this" in gives_way.output()
    (run,) = runs_of("race")
    assert (run.info.status, run.data.metrics["process"]) == ("FINISHED", works.process and works.process.pid)
    assert len(runs_of("race", ViewType.ALL)) <= 2
