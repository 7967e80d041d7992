"""Promotions at once: processes that move the versions of one real store, one that is killed,
one that is taken for dead."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest

from adaptf.errors import UserError
from adaptf.promotion import moving, turn
from adaptf.tracking import production
from adaptf.tracking.stage_run import StageRun

MODELS = ("adaptf-a", "adaptf-b", "adaptf-router")
PROMOTE_ALL = """
import sys
from pathlib import Path
import mlflow
from adaptf.errors import UserError
from adaptf.promotion.moving import move
from adaptf.tracking import production
from adaptf.tracking.stage_run import StageRun

def put(name, version):
    production.promote(name, version)
    if name == models[0]:
        print("has moved the first", flush=True)
        sys.stdin.readline()

version, *models = sys.argv[1:]
with mlflow.start_run() as run:
    seen = {name: production.production_or_none(name) for name in models}
    print("has judged", flush=True)
    sys.stdin.readline()
    try:
        mover = StageRun(run.info.run_id, "promote", Path())
        move(dict.fromkeys(models, version), mover, put, seen=seen, reason="")
    except UserError as error:
        print(error, flush=True)
"""
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def store(database: Path, tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three models with three versions each, the first ones in production."""
    monkeypatch.setattr(turn, "LOOK_SECONDS", 0.05)
    client = mlflow.MlflowClient
    with tracked(f"sqlite:///{database}"):
        for name in MODELS:
            client().create_registered_model(name)
            for _ in range(3):
                client().create_model_version(name, source=str(tmp_path))
            production.promote(name, "1")
        yield
        for name in MODELS:
            client().delete_registered_model(name)


@pytest.fixture
def start(store: None) -> Iterator[Start]:
    """A process that is about to promote a version of all models."""
    processes = []

    def begin(version: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROMOTE_ALL, version, *MODELS]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def says(process: subprocess.Popen[str]) -> str:
    """The next line."""
    assert process.stdout
    return process.stdout.readline()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def in_production() -> list[str | None]:
    return [production.production_or_none(name) for name in MODELS]


def moved_here(version: str) -> None:
    """By a promotion in this process."""
    seen = {name: production.production_or_none(name) for name in MODELS}
    with mlflow.start_run() as active:
        run = StageRun(active.info.run_id, "promote", Path())
        moving.move(dict.fromkeys(MODELS, version), run, seen=seen, reason="")


@pytest.mark.slow
def test_of_two_promotions_at_once_one_moves_all_and_the_other_nothing(start, monkeypatch, capsys):
    first, second = start("2"), start("3")
    assert [says(first), says(second)] == ["has judged\n"] * 2
    go_on(first)
    assert says(first) == "has moved the first\n"
    go_on(second)
    assert "moves versions at the moment" in says(second)
    first.communicate("\n", timeout=120)
    said, _ = second.communicate("\n", timeout=120)
    assert (
        "nothing was moved: while the gates were at work, somebody put in production adaptf-a version 2"
        in said
    )
    assert in_production() == ["2"] * 3

    killed = start("3")
    assert says(killed) == "has judged\n"
    go_on(killed)
    assert says(killed) == "has moved the first\n"
    killed.kill()
    killed.wait()
    assert in_production() == ["3", "2", "2"]
    monkeypatch.setattr(turn, "LOOKS", 3)
    moved_here("3")
    assert "moves versions at the moment" in capsys.readouterr().out
    assert in_production() == ["3"] * 3
    assert not [
        tag for tag in mlflow.MlflowClient().get_registered_model("adaptf-router").tags if "moves" in tag
    ]


def test_one_that_was_taken_for_dead_moves_nothing_more(monkeypatch):
    monkeypatch.setattr(turn, "LOOKS", 1)
    with turn.turn("sleeper") as still_mine:
        still_mine()
        with (
            turn.turn("other"),
            pytest.raises(UserError, match="another one, which moves versions too, took"),
        ):
            still_mine()
        with pytest.raises(UserError, match="took it for dead"):
            still_mine()


def test_nobody_has_to_have_registered_a_router():
    mlflow.MlflowClient().delete_registered_model("adaptf-router")
    with turn.turn("run") as still_mine:
        still_mine()
