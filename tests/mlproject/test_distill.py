"""Distillation: what it takes from teachers, what it refuses, and that it can be repeated."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from adaptf.data.errors import DataError
from adaptf.data.teacher_logits import TeacherLogits, read_teacher_logits, write_teacher_logits
from adaptf.errors import UserError
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.prepare import PREPARE, PrepareConfig
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.config import DataConfig
from adaptf.pipeline.stage import execute
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.tracking import runs
from adaptf.tracking.runs import UpstreamError, metric_per_epoch
from adaptf.tracking.tags import STAGE
from adaptf.training.task import ClassifierTask


@pytest.fixture(scope="module")
def config(
    distill_config: DistillConfig, train_config: TrainConfig, teacher_config: TeacherConfig
) -> DistillConfig:
    """From a trained network and one teacher."""
    trained, taught = execute(TRAIN, train_config), execute(TEACHER, teacher_config)
    return replace(distill_config, train_run=trained, teacher_runs=taught)


@pytest.fixture
def other_teacher(config: DistillConfig, tmp_path: Path) -> Callable[..., str]:
    """A finished teacher's run that holds these logits."""

    def make(**changes: Any) -> str:
        tags = {STAGE: "teacher", "adaptf.teacher": "ssl", "adaptf.teacher_model": "small_cnn"}
        with mlflow.start_run(experiment_id=runs.experiment_id(), tags=tags) as run:
            mlflow.log_artifacts(str(logits_folder(config, tmp_path, **changes)), "logits")
        return str(run.info.run_id)

    return make


def logits_folder(config: DistillConfig, folder: Path, **changes: Any) -> Path:
    path = mlflow.artifacts.download_artifacts(run_id=config.teacher_runs, artifact_path="logits")
    table: TeacherLogits = replace(read_teacher_logits(Path(path)), **changes)
    write_teacher_logits(folder / "logits", table)
    return folder / "logits"


def checkpoint_bytes(run_id: str, name: str) -> bytes:
    return Path(
        mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=f"checkpoints/{name}.ckpt")
    ).read_bytes()


def per_epoch(run_id: str) -> dict[str, list[float]]:
    names = mlflow.get_run(run_id).data.metrics
    return {name: metric_per_epoch(run_id, name) for name in names if name.startswith(("train/", "val/"))}


def test_student_and_teachers_are_measured_in_every_epoch(config: DistillConfig) -> None:
    run_id = execute(DISTILL, replace(config, optim=replace(config.optim, max_epochs=2)))
    curves = per_epoch(run_id)
    losses = {
        f"{phase}/{name}"
        for phase in ("train", "val")
        for name in ("loss", "label_loss", "distillation_loss")
    }
    assert set(curves) == losses | {
        "val/accuracy",
        "val/accuracy_over_all_clips",
        "val/teacher_accuracy",
        "val/agreement",
    }
    assert all(len(values) == 2 for values in curves.values())
    assert curves["val/teacher_accuracy"][0] == curves["val/teacher_accuracy"][1]
    taught = mlflow.get_run(config.teacher_runs).data.metrics["best/accuracy"]
    assert curves["val/teacher_accuracy"][0] == pytest.approx(taught, abs=1e-6)


def test_logits_that_lack_a_clip_are_refused(
    config: DistillConfig, other_teacher: Callable[..., str]
) -> None:
    path = mlflow.artifacts.download_artifacts(run_id=config.teacher_runs, artifact_path="logits")
    table = read_teacher_logits(Path(path))
    lacking = other_teacher(filenames=table.filenames[1:], logits=table.logits[1:])
    with pytest.raises(
        DataError, match=rf"(?s)teacher run {config.teacher_runs}.*{table.filenames[0]}: no logits"
    ):
        execute(DISTILL, replace(config, teacher_runs=lacking))


def test_logits_of_another_order_of_classes_are_refused(
    config: DistillConfig, other_teacher: Callable[..., str]
) -> None:
    with pytest.raises(
        DataError, match="hold the classes bus, airport, expected airport, bus, in this order"
    ):
        execute(DISTILL, replace(config, teacher_runs=other_teacher(classes=("bus", "airport"))))


def test_a_teacher_of_other_data_is_refused(config: DistillConfig, other_teacher: Callable[..., str]) -> None:
    with pytest.raises(DataError, match=r"belong to other data \(digest of-another-split\)"):
        execute(DISTILL, replace(config, teacher_runs=other_teacher(data_digest="of-another-split")))


def test_a_start_that_was_trained_on_another_split_is_refused(
    config: DistillConfig, data: DataConfig
) -> None:
    other_split = execute(PREPARE, PrepareConfig(replace(data, validation_share=0.5)))
    with pytest.raises(
        UpstreamError,
        match=f"(?s)run {config.train_run} learnt from other data.*prepare_run={config.prepare_run}",
    ):
        execute(DISTILL, replace(config, prepare_run=other_split))


def steady(filenames: tuple[str, ...], *, wrong: int, height: float) -> np.ndarray:
    """Logits (clips, 2): `height` for one scene, the wrong one for each place's clip of this number."""
    parts = [name.removeprefix("audio/").split("-") for name in filenames]
    is_bus = np.array([(part[0] == "bus") != (part[4] == str(wrong)) for part in parts])
    return height * np.eye(2, dtype=np.float32)[is_bus.astype(int)]


def test_calibrated_teachers_count_alike_however_sure_they_are(
    config: DistillConfig,
    other_teacher: Callable[..., str],
    training_of: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each is right on two clips of three: as sure its best temperature makes it, log 2 for one scene."""
    path = mlflow.artifacts.download_artifacts(run_id=config.teacher_runs, artifact_path="logits")
    files = read_teacher_logits(Path(path)).filenames
    timid, overconfident = (steady(files, wrong=1, height=height) for height in (0.2, 10.0))
    third = steady(files, wrong=2, height=1.0)
    second = other_teacher(logits=third)
    for first in (timid, overconfident):
        ensemble = replace(config, teacher_runs=f"{other_teacher(logits=first)},{second}")
        plain = training_of(DISTILL, ensemble).train
        rows = [files.index(name) for name in plain.filenames]
        expected = np.stack([first, third], axis=1)[rows]
        np.testing.assert_array_equal(plain.teacher_logits, expected)
        scaled = replace(ensemble, loss=replace(config.loss, teacher_scale="calibrated"))
        begun = training_of(DISTILL, scaled)
        np.testing.assert_allclose(begun.train.teacher_logits, np.log(2) * (expected > 0), atol=1e-3)
        np.testing.assert_allclose(begun.validation.teacher_logits.max(axis=2), np.log(2), atol=1e-3)
    assert "own temperatures on validation clips: 0.29, 1.44." in capsys.readouterr().out


def test_a_teacher_that_is_always_right_has_no_scale(
    config: DistillConfig, other_teacher: Callable[..., str]
) -> None:
    path = mlflow.artifacts.download_artifacts(run_id=config.teacher_runs, artifact_path="logits")
    files = read_teacher_logits(Path(path)).filenames
    knows_all = other_teacher(logits=steady(files, wrong=-1, height=1.0))
    loss = replace(config.loss, teacher_scale="calibrated")
    with pytest.raises(UserError, match=r"all of the clips are recognised.*loss\.teacher_scale=as_they_are"):
        execute(DISTILL, replace(config, teacher_runs=knows_all, loss=loss))


@pytest.mark.parametrize("changes", [{"mixed_teachers": "terms"}, {"reduction": "clips"}])
def test_other_forms_of_distillation_give_other_students(
    config: DistillConfig, changes: dict[str, Any]
) -> None:
    plain = execute(DISTILL, config, reuse=True)
    other = execute(DISTILL, replace(config, loss=replace(config.loss, **changes)))
    first, second = (metric_per_epoch(run_id, "train/distillation_loss")[0] for run_id in (plain, other))
    assert np.isfinite(second) and abs(second / first - 1) > 1e-3


def test_the_same_seed_gives_the_same_checkpoint_bytes(
    config: DistillConfig, train_config: TrainConfig
) -> None:
    for stage, settings in ((TRAIN, train_config), (DISTILL, config)):
        first, second = execute(stage, settings), execute(stage, settings)
        assert first != second
        for name in ("best", "last"):
            assert checkpoint_bytes(first, name) == checkpoint_bytes(second, name), (stage.__name__, name)


def test_an_interrupted_distillation_ends_with_the_metrics_of_an_uninterrupted_one(
    config: DistillConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, seed=5, optim=replace(config.optim, max_epochs=4, restart_epochs=4))
    whole = execute(DISTILL, config)
    step = ClassifierTask.training_step

    def breaks(task: ClassifierTask, batch: Any, batch_index: int) -> Any:
        if task.current_epoch == 2:
            raise RuntimeError("power cut")
        return step(task, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierTask, "training_step", breaks)
        with pytest.raises(RuntimeError, match="power cut"):
            execute(DISTILL, config)
    resumed = execute(DISTILL, config)
    assert resumed != whole
    assert per_epoch(resumed) == per_epoch(whole)
    assert runs.scores(resumed) == runs.scores(whole)
    assert checkpoint_bytes(resumed, "last") == checkpoint_bytes(whole, "last")
