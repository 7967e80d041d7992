"""Names of runs in the run list."""

from dataclasses import replace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from adaptf.mlproject.compare import COMPARE, CompareConfig
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.finetune import FINETUNE, FinetuneConfig
from adaptf.mlproject.prepare import PREPARE, PrepareConfig
from adaptf.mlproject.promote import PROMOTE, PromoteConfig
from adaptf.mlproject.rollback import ROLLBACK, RollbackConfig
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.config import AugmentConfig, DataConfig, OptimConfig
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.taught import LossConfig
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.tracking import runs

A, B = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"


@pytest.fixture(autouse=True)
def one_run_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def name_of(run_id: str) -> str:
        if run_id == A:
            return "distill T=2 w=0.02"
        raise MlflowException("there is no such run")

    monkeypatch.setattr(runs, "name_of", name_of)


@pytest.mark.parametrize(
    ("stage", "config", "name"),
    [
        (PREPARE, PrepareConfig(DataConfig(root="/data/TAU-2022/")), "prepare TAU-2022"),
        (TEACHER, TeacherConfig(kind="ssl_sl", beats_ssl_sl_file="beats.pt"), "teacher ssl_sl (beats)"),
        (DISTILL, DistillConfig(loss=LossConfig(temperature=1.7, weight=0.031)), "distill T=1.7 w=0.031"),
        (FINETUNE, FinetuneConfig(), "finetune"),
        (COMPARE, CompareConfig(f"models:/adaptf-s1/3,{A}"), "compare adaptf-s1/3, distill T=2 w=0.02"),
        (COMPARE, CompareConfig(f"{A},{B},{A},{B}"), "compare 4 models"),
        (PROMOTE, PromoteConfig(), "promote"),
        (ROLLBACK, RollbackConfig(device="router"), "rollback router"),
    ],
)
def test_a_run_is_called_after_its_stage_and_what_tells_it_from_others(
    stage: Stage[Any], config: object, name: str
) -> None:
    assert stage.describe(config) == name


def test_settings_that_are_not_the_default_are_told() -> None:
    config = DistillConfig(
        augment=AugmentConfig(dir_p=0.2, dir_p_of={"b,c": 0.1}), optim=OptimConfig(lr=0.01)
    )
    assert DISTILL.describe(config) == "distill T=2 w=0.02 DIR=0.2 lr=0.01 DIR b,c=0.1"
    assert FINETUNE.describe(FinetuneConfig(augment=AugmentConfig(dir_p=0.3))) == "finetune DIR=0.3"


def test_the_parent_of_several_seeds_tells_their_number() -> None:
    assert TRAIN.describe(replace(TrainConfig(), seeds=(0, 1, 2))) == "train DIR=0.4 lr=0.004, 3 seeds"


def test_a_checkpoint_file_is_called_by_its_name(tmp_path) -> None:
    file = tmp_path / "best.ckpt"
    file.touch()
    assert COMPARE.describe(CompareConfig(f"{file},{A}")) == "compare best, distill T=2 w=0.02"
