"""Logits that others have published take the place of a teacher that is trained."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from adaptf.data.teacher_logits import read_teacher_logits
from adaptf.errors import UserError
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.main import MainConfig, check_published, files_read
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.artifacts import SCENES_KIND
from adaptf.pipeline.command_line import parse
from adaptf.pipeline.config import DataConfig
from adaptf.pipeline.dataset import PreparedData, load_prepared
from adaptf.pipeline.published import PublishedConfig
from adaptf.pipeline.stage import execute
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.tracking import runs
from adaptf.tracking.stage_run import StageRun


@pytest.fixture(scope="module")
def meta(data: DataConfig) -> pd.DataFrame:
    """The data set's own table, with test clips."""
    return pd.read_csv(Path(data.root) / "meta.csv", sep="\t")


@pytest.fixture(scope="module")
def logits(meta: pd.DataFrame) -> np.ndarray:
    """Of all clips: right except for each place's last one."""
    right = (meta["scene_label"] == "bus").to_numpy() != meta["filename"].str.contains("-2-c").to_numpy()
    noise = np.random.default_rng(0).normal(size=(len(meta), 2)).astype(np.float32)
    return noise / 10 + 2 * np.eye(2, dtype=np.float32)[right.astype(int)]


@pytest.fixture(scope="module")
def config(
    teacher_config: TeacherConfig, data: DataConfig, logits: np.ndarray, folder: Path
) -> TeacherConfig:
    torch.save(torch.from_numpy(logits), folder / "ensemble_logits.pt")
    published = PublishedConfig(str(folder / "ensemble_logits.pt"), str(Path(data.root) / "meta.csv"))
    return replace(teacher_config, kind="published", published=published)


@pytest.fixture
def loaded(prepared: str, folder: Path) -> PreparedData:
    with mlflow.start_run(experiment_id=runs.experiment_id()) as reader:
        return load_prepared(StageRun(reader.info.run_id, "reader", folder), prepared, kind=SCENES_KIND)


def with_names(config: TeacherConfig, names: pd.Series, path: Path) -> TeacherConfig:
    names.to_frame("filename").to_csv(path, index=False)
    return replace(config, published=replace(config.published, names=str(path)))


def test_published_logits_make_a_run_as_a_teacher_does(
    config: TeacherConfig, meta: pd.DataFrame, logits: np.ndarray, loaded: PreparedData
) -> None:
    run_id = execute(TEACHER, config)
    table = read_teacher_logits(
        Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="logits"))
    )
    assert (table.teacher_run, table.data_digest) == (run_id, loaded.digest)
    rows = [list(meta["filename"]).index(name) for name in table.filenames]
    assert len(rows) == 24
    np.testing.assert_array_equal(table.logits, logits[rows])
    run = mlflow.get_run(run_id)
    assert (run.data.tags["adaptf.teacher"], run.data.tags["adaptf.teacher_model"]) == (
        "published",
        "ensemble_logits",
    )
    assert run.data.metrics["best/accuracy"] == pytest.approx(2 / 3)
    assert (run.data.metrics["best/accuracy/a"], run.data.metrics["best/accuracy/c"]) == (1, 0)
    note = run.data.tags["mlflow.note.content"]
    assert "24 of 36 clips are of these data" in note
    assert "66.7% of the training clips and 66.7% of the validation clips" in note
    assert "which chose no checkpoint" in note
    assert run.info.run_name == "teacher published (ensemble_logits)"


def test_a_run_stands_for_the_same_files_alone(
    config: TeacherConfig, logits: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "ensemble_logits.npy"
    moved = replace(config, published=replace(config.published, file=str(file)))
    np.save(file, logits)
    first = execute(TEACHER, moved)
    assert execute(TEACHER, moved, reuse=True) == first
    np.save(file, 2 * logits)
    assert execute(TEACHER, moved, reuse=True) != first


def test_a_student_learns_from_published_logits_beside_a_trained_teacher(
    config: TeacherConfig,
    teacher_config: TeacherConfig,
    train_config: TrainConfig,
    distill_config: DistillConfig,
    training_of: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    meta: pd.DataFrame,
    logits: np.ndarray,
) -> None:
    execute(TRAIN, train_config)
    execute(TEACHER, replace(teacher_config, kind="small_cnn"))
    execute(TEACHER, config)
    train = training_of(DISTILL, distill_config).train
    said = capsys.readouterr().out
    assert "published (ensemble_logits)" in said and "small_cnn (small_cnn)" in said
    assert train.teacher_logits.shape[1] == 2
    rows = [list(meta["filename"]).index(name) for name in train.filenames]
    assert any((train.teacher_logits[:, teacher] == logits[rows]).all() for teacher in (0, 1))


def test_logits_of_other_clips_are_refused_by_the_stage_and_by_main_before_any_training(
    config: TeacherConfig, meta: pd.DataFrame, loaded: PreparedData, tmp_path: Path
) -> None:
    validation = loaded.table.loc[loaded.table["split"] == "validation", "filename"].iloc[0]
    lacking = with_names(config, meta["filename"].replace(validation, "audio/else.wav"), tmp_path / "a.csv")
    with pytest.raises(UserError, match=rf"(?s)published: .*{validation}: no logits"):
        execute(TEACHER, lacking)
    with pytest.raises(UserError, match=rf"(?s)teacher.published: .*{validation}: no logits"):
        check_published(MainConfig(teacher_kinds=("small_cnn", "published"), teacher=lacking), loaded)
    turned = with_names(config, meta["filename"].iloc[::-1], tmp_path / "b.csv")
    with pytest.raises(UserError, match=r"were taken for airport, bus and look like bus, airport"):
        execute(TEACHER, turned)
    named = replace(config, published=replace(config.published, scenes=("bus", "airport")))
    with pytest.raises(UserError, match=r"were taken for bus, airport and look like airport, bus"):
        execute(TEACHER, named)


def test_main_asks_for_the_file_before_any_stage(config: TeacherConfig) -> None:
    main = MainConfig(teacher_kinds=("published",), teacher=replace(config, published=PublishedConfig()))
    with pytest.raises(UserError, match="published: file is none"):
        files_read(main)


def test_the_command_line_names_files_and_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--kind=published", "--published.file=a.pt", "--published.names=b.csv"]
    config = parse(TeacherConfig, stage="teacher", arguments=[*arguments, "--published.scenes=bus,airport"])
    names = (str(tmp_path / "a.pt"), str(tmp_path / "b.csv"), ("bus", "airport"))
    assert config.published == PublishedConfig(*names)
