"""A run that others may take from has all that belongs to it, wherever its process was killed."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from fixtures import toy_stage
from fixtures.toy_stage import EPOCHS, OUTER, TOY, ToyConfig
from mlflow.entities import Run

from adaptf.pipeline.stage import execute
from adaptf.tracking import runs
from adaptf.tracking.complete import COMPLETE
from adaptf.tracking.runs import UpstreamError
from adaptf.tracking.tags import FINGERPRINT, STAGE

FILES = {"config.yaml", "checkpoints/best.ckpt", "logits/logits.csv"}


def artifacts(run_id: str, folder: str | None = None) -> set[str]:
    found = mlflow.MlflowClient().list_artifacts(run_id, folder)
    below = [artifacts(run_id, entry.path) for entry in found if entry.is_dir]
    return {entry.path for entry in found if not entry.is_dir}.union(*below)


def folder_of(run: Run) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://"))


def is_whole(run: Run) -> bool:
    """Whether a toy's run has everything that one leaves that nobody disturbed."""
    epochs = [entry.step for entry in mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")]
    return (
        run.info.status == "FINISHED"
        and artifacts(run.info.run_id) == FILES
        and {run.data.tags["toy"], run.data.tags["mlflow.note.content"]} == {"done", "A toy."}
        and sorted(set(epochs)) == list(range(EPOCHS))
        and run.data.metrics["best/accuracy"] == 0.5
    )


@pytest.mark.slow
def test_wherever_a_stage_is_killed_the_same_command_makes_one_whole_run(
    environment: dict[str, str], folder: Path
) -> None:
    command = [sys.executable, str(Path(toy_stage.__file__)), "killed"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = int(re.findall(r"(\d+) steps", done.stdout)[0])
    assert steps >= 12
    made = list(runs.search("toy", {}))
    assert sorted(int(run.data.params["seed"]) for run in made) == list(range(steps + 2))
    assert [run.data.params["seed"] for run in made if not is_whole(run)] == []
    assert len(list((folder / "work").glob("toy-*/"))) <= 2  # of those that had nothing else left to do


@pytest.fixture
def finished(environment: dict[str, str]) -> Callable[..., Run]:
    """A toy's run."""
    return lambda seed: mlflow.get_run(execute(TOY, ToyConfig(seed=seed), reuse=True))


@pytest.mark.parametrize(("seed", "gone"), [(101, ""), (102, "checkpoints/best.ckpt"), (103, "logits")])
def test_a_finished_run_whose_artifacts_are_gone_is_done_again(
    finished: Callable[..., Run], seed: int, gone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(seed)
    assert finished(seed).info.run_id == run.info.run_id
    place = folder_of(run) / gone
    shutil.move(place, place.with_name("elsewhere"))
    lost = f"run {run.info.run_id} (toy) has finished, but {gone or 'config.yaml'}"
    with pytest.raises(UpstreamError, match=f"'toy' has finished, but .*{gone}.* cannot be found in"):
        runs.finished_run(run.info.run_id)
    capsys.readouterr()
    again = finished(seed)
    assert again.info.run_id != run.info.run_id and is_whole(again)
    assert f"{lost}" in (said := capsys.readouterr().out) and "it is done again" in said
    shutil.move(place.with_name("elsewhere"), place)


def test_a_run_whose_part_has_lost_its_artifacts_is_done_again(
    finished: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = execute(OUTER, ToyConfig(seed=104), reuse=True)
    assert execute(OUTER, ToyConfig(seed=104), reuse=True) == whole
    part = finished(104)
    shutil.rmtree(folder_of(part) / "checkpoints")
    assert execute(OUTER, ToyConfig(seed=104), reuse=True) != whole
    assert (
        f"run {whole} (outer) has finished, but its part, run {part.info.run_id}, has"
        in capsys.readouterr().out
    )
    assert is_whole(again := finished(104)) and again.info.run_id != part.info.run_id


@pytest.mark.slow
def test_a_run_that_was_ended_too_early_goes_on(finished: Callable[..., Run]) -> None:
    whole = finished(111)
    mlflow.MlflowClient().set_tag(whole.info.run_id, COMPLETE, "no")
    with pytest.raises(UpstreamError, match="was interrupted before all that belongs to it was there"):
        runs.finished_run(whole.info.run_id)
    newest = runs.latest("toy", {})
    assert newest != whole.info.run_id
    assert finished(111).info.run_id == whole.info.run_id
    assert is_whole(mlflow.get_run(whole.info.run_id))


@pytest.mark.parametrize("left", [["config.yaml"], ["config.yaml", "checkpoints/best.ckpt"]])
def test_a_training_of_the_version_before_is_taken_where_it_left_a_checkpoint(
    finished: Callable[..., Run], left: list[str]
) -> None:
    finished(121)
    with mlflow.start_run(experiment_id=runs.experiment_id(), tags={STAGE: "toy"}) as run:
        mlflow.log_metrics({"epoch": 1.0, "train/loss": 0.5})
        for place in left:
            mlflow.log_text("1", place)
    assert (runs.latest("toy", {}) == run.info.run_id) == (len(left) > 1)


def test_a_run_of_the_version_before_that_trained_nothing_is_taken(environment: dict[str, str]) -> None:
    with mlflow.start_run(experiment_id=runs.experiment_id(), tags={STAGE: "main"}) as run:
        mlflow.log_text("1", "config.yaml")
    assert runs.latest("main", {}) == run.info.run_id


def test_what_lies_in_the_work_folder_of_a_deleted_run_is_not_gone_on_from(
    environment: dict[str, str], folder: Path
) -> None:
    run = mlflow.get_run(execute(TOY, ToyConfig(seed=131)))
    mlflow.MlflowClient().delete_run(run.info.run_id)
    left = folder / "work" / f"toy-{run.data.tags[FINGERPRINT][:16]}"
    left.mkdir()
    (left / "epochs").write_text("2")
    assert is_whole(mlflow.get_run(execute(TOY, ToyConfig(seed=131))))
