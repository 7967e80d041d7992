"""A student and a teacher that are one file and one line of a registry each go all the way to INT8."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
from fixtures.toy_student import ToyStudent
from fixtures.toy_teacher import ToyTeacher

from adaptf.compression.runtime import PT2, load_form
from adaptf.data.teacher_logits import read_teacher_logits
from adaptf.errors import UserError
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.finetune import FINETUNE, FinetuneConfig
from adaptf.mlproject.quantize import QUANTIZE, QuantizeConfig
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.models.checkpoint import load_classifier
from adaptf.models.students.registry import STUDENTS, Student
from adaptf.models.teachers.registry import TEACHERS, Teacher
from adaptf.pipeline.command_line import parse
from adaptf.pipeline.config import ModelConfig, OptimConfig
from adaptf.pipeline.stage import execute
from adaptf.pipeline.teachers import TeacherConfig

OPTIM = ["--optim.max_epochs=1", "--optim.restart_epochs=1", "--optim.batch_size=8"]
MEL = ["--mel.bands=64"]
ON_CPU = ["--trainer.accelerator=cpu", "--trainer.workers=0", "--trainer.progress_bar=false"]


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """The lines that the registries get."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STUDENTS, "toy", Student(ToyStudent))
        patch.setitem(TEACHERS, "toy", Teacher("toy_means", ToyTeacher))
        yield


@pytest.fixture(scope="module")
def trained(prepared: str) -> str:
    student = ["--model.kind=toy", "--model.width=16", "--model.settings.groups=4", "--pretrain_run=none"]
    arguments = [f"--prepare_run={prepared}", *student, *MEL, *OPTIM, *ON_CPU]
    return execute(TRAIN, parse(TrainConfig, stage="train", arguments=arguments))


@pytest.fixture(scope="module")
def teacher_run(prepared: str) -> str:
    small = ["--small.mel.bands=64", "--small.optim.max_epochs=1", "--small.optim.restart_epochs=1"]
    arguments = [f"--prepare_run={prepared}", "--kind=toy", *small, *ON_CPU]
    return execute(TEACHER, parse(TeacherConfig, stage="teacher", arguments=arguments))


def artifact(run_id: str, path: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path))


def test_a_checkpoint_of_a_toy_says_all_its_settings_and_builds_it_again(trained: str) -> None:
    classifier = load_classifier(artifact(trained, "checkpoints/best.ckpt"))
    assert isinstance(classifier.network, ToyStudent)
    assert classifier.description.kind == "toy"
    assert classifier.description.network == {"width": 16, "groups": 4}


def test_a_toy_teacher_leaves_logits_under_its_names(teacher_run: str) -> None:
    tags = mlflow.get_run(teacher_run).data.tags
    assert (tags["adaptf.teacher"], tags["adaptf.teacher_model"]) == ("toy", "toy_means")
    assert "toy_means, trained from scratch." in tags["mlflow.note.content"]
    assert read_teacher_logits(artifact(teacher_run, "logits")).classes == ("airport", "bus")


@pytest.mark.slow
def test_a_toy_student_learns_from_a_toy_teacher_and_becomes_int8(
    trained: str, teacher_run: str, distill_config: DistillConfig
) -> None:
    distilled = execute(DISTILL, replace(distill_config, train_run=trained, teacher_runs=teacher_run))
    assert "toy (toy_means)" in mlflow.get_run(distilled).data.tags["mlflow.note.content"]
    prepared, trainer = distill_config.prepare_run, distill_config.trainer
    optim = OptimConfig(lr=0.001, batch_size=8, max_epochs=1, restart_epochs=1)
    tuned = execute(
        FINETUNE,
        FinetuneConfig(
            prepare_run=prepared, distill_run=distilled, min_clips=1000, optim=optim, trainer=trainer
        ),
    )
    quantized = execute(
        QUANTIZE,
        QuantizeConfig(
            prepare_run=prepared, finetune_run=tuned, tolerable_loss=1.0, tolerable_logit_error=1.0
        ),
    )
    row = pd.read_csv(artifact(quantized, "quantization.csv"), index_col="device").loc["unknown"]
    assert row["INT8 convolutions"] == "3/3"
    network = load_form(artifact(quantized, "int8") / "unknown.pt2", PT2)
    assert network(torch.zeros(2, 1, 64, 64)).shape == (2, 2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "toi"}, "there is no student 'toi', there are tfsepnet, cp_mobile, toy"),
        ({"kind": "toy", "depth": 3}, "model.depth: toy has none, it takes width, groups"),
        (
            {"kind": "toy", "settings": {"group": 3}},
            "model.settings: there is no group, the network takes width, groups",
        ),
    ],
)
def test_a_student_and_settings_that_there_are_not_are_refused_at_once(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        ModelConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"kind": "toi"},
            "there is no teacher 'toi', there are published, ssl, ssl_sl, ssl_frozen, transformers, "
            "small_cnn, cp_resnet, toy",
        ),
        ({"kind": "toy", "settings": {"band": 3}}, "settings: there is no band, the network takes bands"),
    ],
)
def test_a_teacher_and_settings_that_there_are_not_are_refused_before_a_run_begins(
    settings: dict[str, Any], said: str, teacher_config: TeacherConfig
) -> None:
    with pytest.raises(UserError, match=said):
        execute(TEACHER, replace(teacher_config, **settings))
