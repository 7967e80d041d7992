"""BEATs teachers: fine-tuned or frozen, in a small size and in the published one."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

from adaptf.data.clips import VALIDATION
from adaptf.data.teacher_logits import read_teacher_logits
from adaptf.evaluation.predict import predict_logits
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.models.checkpoint import load_classifier
from adaptf.models.teachers.beats import BeatsEncoder
from adaptf.models.teachers.beats_file import BeatsFileError
from adaptf.pipeline.artifacts import SCENES_KIND
from adaptf.pipeline.config import AugmentConfig, BeatsOptimConfig, OptimConfig
from adaptf.pipeline.dataset import load_prepared
from adaptf.pipeline.stage import execute
from adaptf.pipeline.teachers import FrozenTeacherConfig, TeacherConfig, unused_on_embeddings
from adaptf.tracking import runs
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import STAGE

ONE_EPOCH = BeatsOptimConfig(max_epochs=1, warmup_epochs=0, batch_size=8)
FROZEN = FrozenTeacherConfig(optim=OptimConfig(lr=0.01, batch_size=8, max_epochs=3, restart_epochs=0))


@pytest.fixture(scope="module")
def files(folder: Path, golden_folder: Path, write_beats_file: Callable[..., Path]) -> dict[str, str]:
    """A small BEATs of each kind."""
    cfg = torch.load(golden_folder / "beats_tiny.pt", weights_only=True)["cfg"]
    return {
        "beats_ssl_file": str(write_beats_file(folder / "ssl.pt", cfg)),
        "beats_ssl_sl_file": str(write_beats_file(folder / "ssl_sl.pt", cfg, finetuned=True, seed=1)),
    }


@pytest.fixture(scope="module")
def config(teacher_config: TeacherConfig, files: dict[str, str]) -> TeacherConfig:
    return replace(teacher_config, optim=ONE_EPOCH, frozen=FROZEN, **files)


@pytest.fixture
def forbidden_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running BEATs' encoder fails."""

    def fail(*arguments: Any) -> None:
        raise AssertionError("the encoder was run")

    monkeypatch.setattr(BeatsEncoder, "forward", fail)


def downloaded(run_id: str, artifact: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=artifact))


def logits_of_checkpoint(run_id: str, prepare_run: str, folder: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """File names, and what the run's best checkpoint says of them."""
    best = load_classifier(downloaded(run_id, "checkpoints/best.ckpt"))
    with mlflow.start_run(experiment_id=runs.experiment_id()) as reader:
        data = load_prepared(StageRun(reader.info.run_id, "reader", folder), prepare_run, kind=SCENES_KIND)
    rows = data.learning_rows()
    return tuple(rows["filename"]), predict_logits(best, data.clip_set(rows, VALIDATION))


@pytest.mark.parametrize("kind", ["ssl", "ssl_sl", "ssl_frozen"])
def test_a_teacher_leaves_its_checkpoints_logits_with_run_digest_and_classes(
    kind: Any, config: TeacherConfig, prepared: str, folder: Path
) -> None:
    run_id = execute(TEACHER, replace(config, kind=kind))
    table = read_teacher_logits(downloaded(run_id, "logits"))
    assert (table.teacher_run, table.classes) == (run_id, ("airport", "bus"))
    assert table.data_digest == mlflow.get_run(prepared).data.tags["adaptf.digest"]
    filenames, logits = logits_of_checkpoint(run_id, prepared, folder)
    assert table.filenames == filenames
    np.testing.assert_allclose(table.logits, logits, atol=1e-3)
    tags = mlflow.get_run(run_id).data.tags
    assert (tags["adaptf.teacher"], tags["adaptf.teacher_model"]) == (kind, "beats")


def test_a_frozen_encoder_is_run_once_for_all_seeds(
    config: TeacherConfig, request: pytest.FixtureRequest
) -> None:
    frozen = replace(config, kind="ssl_frozen")
    execute(TEACHER, frozen)
    request.getfixturevalue("forbidden_encoder")
    execute(TEACHER, replace(frozen, seed=7))


def test_a_frozen_encoder_without_cached_embeddings_hears_augmented_clips(
    config: TeacherConfig, forbidden_encoder: None
) -> None:
    every_epoch = replace(config, kind="ssl_frozen", frozen=replace(FROZEN, cache_embeddings=False))
    with pytest.raises(AssertionError, match="the encoder was run"):
        execute(TEACHER, every_epoch)


def test_fine_tuning_changes_the_encoder_and_freezing_does_not(
    config: TeacherConfig, checkpoint: Callable[..., dict[str, torch.Tensor]], files: dict[str, str]
) -> None:
    weight = "encoder.layers.0.fc1.weight"
    published = torch.load(files["beats_ssl_file"], weights_only=True)["model"][weight]
    tuned = execute(TEACHER, replace(config, kind="ssl"), reuse=True)
    frozen = execute(TEACHER, replace(config, kind="ssl_frozen"), reuse=True)
    assert not torch.equal(checkpoint(tuned)[f"classifier.network.encoder.{weight}"], published)
    assert torch.equal(checkpoint(frozen)[f"classifier.network.encoder.{weight}"], published)


def test_options_for_small_gpus_train_too(config: TeacherConfig) -> None:
    trainer = replace(config.trainer, accumulate_batches=2, precision="bf16-mixed")
    run_id = execute(TEACHER, replace(config, trainer=trainer))
    assert np.isfinite(mlflow.get_run(run_id).data.metrics["train/loss"])


@pytest.mark.parametrize(
    ("kind", "wanted"), [("ssl", "BEATs_iter3_plus_AS2M.pt"), ("ssl_sl", "finetuned_on_AS2M_cpt2.pt")]
)
def test_a_file_of_the_other_kind_is_refused_before_a_run_begins(
    kind: Any, wanted: str, config: TeacherConfig, files: dict[str, str]
) -> None:
    swapped = dict(zip(files, reversed(files.values()), strict=True))
    before = len(mlflow.search_runs(search_all_experiments=True, filter_string=f"tags.`{STAGE}` = 'teacher'"))
    with pytest.raises(BeatsFileError, match=re.escape(wanted)):
        execute(TEACHER, replace(config, kind=kind, **swapped))
    assert (
        len(mlflow.search_runs(search_all_experiments=True, filter_string=f"tags.`{STAGE}` = 'teacher'"))
        == before
    )


@pytest.mark.slow
def test_beats_of_the_published_size_teach_a_student(
    train_config: TrainConfig,
    distill_config: DistillConfig,
    config: TeacherConfig,
    published_beats_cfg: Callable[[], dict[str, Any]],
    write_beats_file: Callable[..., Path],
    tmp_path: Path,
) -> None:
    large = write_beats_file(tmp_path / "ssl_sl.pt", published_beats_cfg(), finetuned=True)
    kinds: tuple[Any, ...] = ("ssl_sl", "ssl_frozen")  # the large one learns whole, and a small one is frozen
    teachers = [
        execute(TEACHER, replace(config, kind=kind, beats_ssl_sl_file=str(large)), reuse=True)
        for kind in kinds
    ]
    trained = execute(TRAIN, train_config, reuse=True)
    distilled = execute(DISTILL, replace(distill_config, train_run=trained, teacher_runs=",".join(teachers)))
    run = mlflow.get_run(distilled)
    assert "ssl_sl (beats), ssl_frozen (beats)" in run.data.tags["mlflow.note.content"]
    assert {"val/agreement", "val/teacher_accuracy", "train/label_loss", "train/distillation_loss"} <= set(
        run.data.metrics
    )


def test_augmentations_that_embeddings_can_not_have_are_told() -> None:
    told = unused_on_embeddings(FrozenTeacherConfig().augment)
    assert "needs frozen.cache_embeddings=false: frozen.augment.spec_mask_share = 0.2." in told
    both = unused_on_embeddings(AugmentConfig(dir_p=0.0, mixstyle_p=0.4, spec_mask_share=0.1))
    assert "frozen.augment.mixstyle_p = 0.4, frozen.augment.spec_mask_share = 0.1." in both
    assert unused_on_embeddings(AugmentConfig(dir_p=0.0, mixstyle_p=0.0, mixup_alpha=0.3)) == ""
