"""A tiny Audio Spectrogram Transformer teaches a student,
and what can't be used is refused before a run begins."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from fixtures.tiny_transformers import write_ast

from adaptf.data.teacher_logits import read_teacher_logits
from adaptf.errors import UserError
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.main import MainConfig
from adaptf.mlproject.main import files_read as files_read_by_main
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.models.checkpoint import load_classifier
from adaptf.pipeline.command_line import parse
from adaptf.pipeline.config import BeatsOptimConfig
from adaptf.pipeline.stage import execute
from adaptf.pipeline.teachers import TeacherConfig, file_digest
from adaptf.tracking.tags import STAGE

ONE_EPOCH = BeatsOptimConfig(max_epochs=1, warmup_epochs=0, batch_size=8)


@pytest.fixture(scope="module")
def ast_folder(folder: Path) -> Path:
    return write_ast(folder / "ast")


@pytest.fixture(scope="module")
def config(teacher_config: TeacherConfig, ast_folder: Path) -> TeacherConfig:
    return replace(teacher_config, kind="transformers", file=str(ast_folder), optim=ONE_EPOCH)


def downloaded(run_id: str, artifact: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=artifact))


def test_a_spectrogram_transformer_teaches_a_student_beside_another_teacher(
    config: TeacherConfig,
    train_config: TrainConfig,
    distill_config: DistillConfig,
    checkpoint: Callable[..., dict[str, torch.Tensor]],
    folder: Path,
) -> None:
    moved = Path(shutil.copytree(config.file, folder / "moved"))
    taught = execute(TEACHER, replace(config, file=str(moved)))
    shutil.rmtree(moved)
    run = mlflow.get_run(taught)
    assert f"transformers from {moved}, all of it fine-tuned." in run.data.tags["mlflow.note.content"]
    assert (run.data.tags["adaptf.teacher"], run.data.tags["adaptf.teacher_model"]) == ("transformers",) * 2
    assert read_teacher_logits(downloaded(taught, "logits")).classes == ("airport", "bus")
    best = load_classifier(downloaded(taught, "checkpoints/best.ckpt"))
    assert torch.isfinite(best(torch.randn(2, 32000))).all()
    learnt = checkpoint(taught)
    assert not any(name.startswith("classifier.features.") for name in learnt)
    small = execute(TEACHER, replace(config, kind="small_cnn"))
    trained = execute(TRAIN, train_config)
    distilled = execute(DISTILL, replace(distill_config, train_run=trained, teacher_runs=f"{taught},{small}"))
    note = mlflow.get_run(distilled).data.tags["mlflow.note.content"]
    assert "transformers (transformers), small_cnn (small_cnn)" in note
    assert np.isfinite(mlflow.get_run(distilled).data.metrics["train/distillation_loss"])


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("none", "file is 'none': transformers starts from pre-trained weights"),
        ("/nowhere/ast", "there is no such folder"),
    ],
)
def test_a_file_that_can_not_be_used_is_refused_before_a_run_begins(
    config: TeacherConfig, file: str, said: str
) -> None:
    query: dict[str, Any] = {"search_all_experiments": True, "filter_string": f"tags.`{STAGE}` = 'teacher'"}
    before = len(mlflow.search_runs(**query))
    with pytest.raises(UserError, match=said):
        execute(TEACHER, replace(config, file=file))
    assert len(mlflow.search_runs(**query)) == before
    with pytest.raises(UserError, match=said):
        files_read_by_main(
            MainConfig(teacher_kinds=("small_cnn", "transformers"), teacher=TeacherConfig(file=file))
        )


def test_other_weights_in_the_folder_are_another_teacher(ast_folder: Path, folder: Path) -> None:
    copy = Path(shutil.copytree(ast_folder, folder / "other"))
    config = TeacherConfig(kind="transformers", file=str(ast_folder))
    assert file_digest(replace(config, file=str(copy))) == file_digest(config)
    write_ast(copy, labels=7)
    assert file_digest(replace(config, file=str(copy))) != file_digest(config)


def test_a_folder_becomes_absolute_and_a_name_of_the_hub_stays(
    ast_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ast_folder.parent)
    for given, meant in (("./ast", str(ast_folder)), ("MIT/ast", "MIT/ast")):
        assert parse(TeacherConfig, stage="teacher", arguments=[f"--file={given}"]).file == meant
