"""Trainings that diverge: they fail at the first such epoch, and nothing takes what they left for a model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.stages import TWO_EPOCHS

from adaptf.errors import UserError
from adaptf.evaluation.scores import prediction_table
from adaptf.mlproject.distill import DistillConfig
from adaptf.mlproject.finetune import FINETUNE, FinetuneConfig
from adaptf.mlproject.main import MainConfig
from adaptf.mlproject.quantize import QUANTIZE, QuantizeConfig
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.models.checkpoint import CheckpointError, load_classifier, save_classifier
from adaptf.models.classifier import ModelDescription, build_classifier
from adaptf.pipeline.checks import check_training
from adaptf.pipeline.config import BeatsOptimConfig, MelConfig, check_ranges
from adaptf.pipeline.stage import execute
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.sweeps.space import with_values
from adaptf.tracking.tags import STAGE
from adaptf.tracking.work_folder import work_root
from adaptf.training.divergence import Diverged, StopDiverged

DIVERGES = replace(TWO_EPOCHS, lr=1e30)


def failed(stage: str) -> mlflow.entities.Run:
    """The newest run of a stage."""
    (run, *_) = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.`{STAGE}` = '{stage}'",
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )
    return run


@pytest.fixture(scope="module")
def start(folder: Path) -> Path:
    """A checkpoint of random weights."""
    description = ModelDescription("tfsepnet", ("airport", "bus"), {"bands": 64}, {"width": 8})
    return save_classifier(build_classifier(description), folder / "start.ckpt", epoch=0)


@pytest.fixture(scope="module")
def broken(start: Path, folder: Path) -> Path:
    """The same with one weight that is no number."""
    content = torch.load(start, weights_only=True)
    next(iter(content["state_dict"].values())).view(-1)[0] = torch.nan
    torch.save(content, folder / "broken.ckpt")
    return folder / "broken.ckpt"


@pytest.fixture(scope="module")
def beats(folder: Path, golden_folder: Path, write_beats_file: Callable[..., Path]) -> Path:
    """A small pre-trained BEATs."""
    cfg = torch.load(golden_folder / "beats_tiny.pt", weights_only=True)["cfg"]
    return write_beats_file(folder / "ssl.pt", cfg)


def test_a_training_ends_as_failed_at_the_first_epoch_that_is_no_number(train_config: TrainConfig) -> None:
    with pytest.raises(Diverged, match=r"diverged in epoch 1: val/loss is nan, .*Try a tenth .*optim\.lr"):
        execute(TRAIN, replace(train_config, optim=DIVERGES))
    run = failed("train")
    assert run.info.status == "FAILED"
    assert "best/accuracy" not in run.data.metrics
    assert not list(work_root().glob("train-*/**/best.ckpt"))


@pytest.mark.parametrize("kind", ["small_cnn", "ssl"])
def test_so_does_a_teacher(kind: str, teacher_config: TeacherConfig, beats: Path) -> None:
    small = replace(teacher_config.small, optim=DIVERGES)
    optim = BeatsOptimConfig(lr=1e30, batch_size=8, max_epochs=2, warmup_epochs=0)
    config = replace(teacher_config, kind=kind, small=small, optim=optim, beats_ssl_file=str(beats))
    with pytest.raises(Diverged, match="diverged in epoch 1"):
        execute(TEACHER, config)
    run = failed("teacher")
    assert (run.info.status, run.data.params["kind"]) == ("FAILED", kind)


def test_so_does_a_device_of_finetune_whose_training_is_validated_at_its_end_alone(
    distill_config: DistillConfig, start: Path
) -> None:
    config = FinetuneConfig(
        prepare_run=distill_config.prepare_run,
        distill_run=str(start),
        teacher_runs="none",
        min_clips=1000,
        optim=DIVERGES,
        trainer=distill_config.trainer,
    )
    with pytest.raises(Diverged, match="diverged in epoch 1: train/loss is"):
        execute(FINETUNE, config)
    assert (failed("finetune").info.status, failed("finetune_device").info.status) == ("FAILED", "FAILED")


@pytest.mark.parametrize("loss, weight", [(torch.nan, 1.0), (torch.inf, 1.0), (0.5, torch.inf)])
def test_neither_the_loss_nor_a_weight_may_be_infinite(loss: float, weight: float) -> None:
    trainer: Any = SimpleNamespace(current_epoch=6, callback_metrics={"val/loss": torch.tensor(loss)})
    task: Any = SimpleNamespace(state_dict=lambda: {"a": torch.tensor([1.0, weight]), "b": torch.tensor(1)})
    with pytest.raises(Diverged, match="epoch 7"):
        StopDiverged().on_validation_end(trainer, task)


def test_weights_that_are_no_numbers_are_no_checkpoint(broken: Path) -> None:
    with pytest.raises(CheckpointError, match=r"1 of its \d+ tensors, such as .*not finite.*diverged"):
        load_classifier(broken)


def test_nor_are_they_quantized(prepared: str, broken: Path) -> None:
    with pytest.raises(UserError, match=r"broken\.ckpt.*not finite"):
        execute(QUANTIZE, QuantizeConfig(prepared, str(broken)))


def test_no_clip_counts_as_recognised_by_logits_that_are_no_numbers() -> None:
    clips = pd.DataFrame({"filename": ["x", "y"], "scene": "bus", "device": "a", "location": ""})
    logits = np.array([[0, 1], [np.nan, 0]], dtype=np.float32)
    with pytest.raises(UserError, match="logits of 1 of 2 clips are not finite"):
        prediction_table(clips, logits, ["bus", "park"])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("distill.loss.weight", 2.0, "from 0 to 1"),
        ("distill.loss.temperature", 0.0, "above 0"),
        ("train.optim.lr", -0.1, "above 0"),
        ("train.optim.lr", float("nan"), "above 0"),
        ("train.optim.lr", float("inf"), "above 0"),
        ("train.optim.batch_size", 0, "1 or more"),
        ("train.augment.mixup_alpha", -0.3, "0 or more"),
        ("train.augment.mixstyle_p", -0.5, "from 0 to 1"),
        ("train.mel.sample_rate", 16000, "32000, at which clips are prepared"),
        ("teacher.optim.betas", (0.9, 1.0), "from 0 to below 1"),
        ("finetune.unknown_dir_p", 1.5, "from 0 to 1"),
        ("quantize.tolerable_loss", -1.0, "from 0 to 1"),
    ],
)
def test_a_number_that_no_stage_can_use_is_refused_before_any_work(field: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=rf"{field} is .*: it should be {said}"):
        check_ranges(with_values(MainConfig(), {field: value}))


def test_a_window_longer_than_its_transform_is_refused_before_any_work() -> None:
    with pytest.raises(UserError, match="mel: a window of 3072 samples does not fit an FFT of 1024"):
        check_training(TrainConfig(mel=MelConfig(n_fft=1024)))
