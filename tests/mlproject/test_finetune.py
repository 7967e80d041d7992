"""Fine-tuning per device: who gets a model of its own, which one is kept, and when training ends."""

import json
import logging
from collections import Counter
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
from numpy.typing import NDArray

from adaptf.data.batch import with_features
from adaptf.data.clip_set import ClipSet
from adaptf.data.errors import DataError
from adaptf.errors import UserError
from adaptf.mlproject.finetune import FINETUNE, FinetuneConfig, of_device, of_unknown, response_probabilities
from adaptf.mlproject.prepare import PREPARE, PrepareConfig
from adaptf.mlproject.register import device_from_sound
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.models.device_from_sound import DEVICE_FROM_SOUND, DeviceFromSound
from adaptf.pipeline import finetune_device as finetune_device_module
from adaptf.pipeline import fitting
from adaptf.pipeline.config import AugmentConfig, DataConfig, OptimConfig
from adaptf.pipeline.finetune_device import FINETUNE_DEVICE, FinetuneDeviceConfig
from adaptf.pipeline.stage import execute
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.tracking import runs
from adaptf.tracking.runs import UpstreamError, metric_per_epoch
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import REFIT, STAGE, UPSTREAM

TrainingOf = Callable[..., Any]
PLAIN = AugmentConfig(dir_p=0.0, mixstyle_p=0.0, mixup_alpha=0.0)
OPTIM = OptimConfig(lr=0.001, batch_size=8, max_epochs=2, restart_epochs=2)


@pytest.fixture(scope="module")
def start(train_config: TrainConfig, folder: Path) -> str:
    """A checkpoint file to start from."""
    run_id = execute(TRAIN, train_config)
    return mlflow.artifacts.download_artifacts(
        run_id=run_id, artifact_path="checkpoints/best.ckpt", dst_path=str(folder)
    )


@pytest.fixture(scope="module")
def device_config(train_config: TrainConfig, start: str) -> FinetuneDeviceConfig:
    prepared, trainer = train_config.prepare_run, train_config.trainer
    return FinetuneDeviceConfig(
        device="a",
        prepare_run=prepared,
        distill_run=start,
        teacher_runs="none",
        min_validation_clips=1,
        augment=PLAIN,
        optim=OPTIM,
        trainer=trainer,
    )


@pytest.fixture(scope="module")
def config(device_config: FinetuneDeviceConfig, start: str) -> FinetuneConfig:
    return FinetuneConfig(
        prepare_run=device_config.prepare_run,
        distill_run=start,
        teacher_runs="none",
        min_clips=1,
        min_validation_clips=1,
        augment=PLAIN,
        optim=OPTIM,
        trainer=device_config.trainer,
    )


def weights_of(path: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def best_of(run_id: str) -> str:
    return str(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="checkpoints/best.ckpt"))


def last_of(run_id: str) -> str:
    return str(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="checkpoints/last.ckpt"))


def same_weights(one: str, other: str) -> bool:
    first, second = weights_of(one), weights_of(other)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_device_with_too_few_clips_is_left_to_the_model_for_unknown_devices(
    config: FinetuneConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path = mlflow.artifacts.download_artifacts(run_id=config.prepare_run, artifact_path="data/clips.parquet")
    table = pd.read_parquet(path)
    counts = table[table["split"] == "train"]["device"].value_counts()
    most = max(counts)
    run_id = execute(FINETUNE, replace(config, devices=("a", "nobody"), min_clips=min(most, counts["a"])))
    models = json.loads(
        Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="models.json")).read_text()
    )
    assert list(models) == ["a", "unknown"]
    assert "Device nobody has 0 training clips, fewer than min_clips" in caplog.text
    assert set(runs.scores(run_id)) == {
        "best/accuracy", "best/accuracy/a", "best/accuracy/b", "best/accuracy/c",
        "kept/accuracy/a", "kept/accuracy/unknown"
    }  # fmt: skip


def test_three_devices_leave_what_tells_them_by_their_sound_for_the_router(
    config: FinetuneConfig, tmp_path: Path
) -> None:
    unchanged = replace(config, optim=replace(OPTIM, max_epochs=0))
    run_id = execute(FINETUNE, unchanged)
    run = StageRun(run_id, "test", tmp_path)
    left = DeviceFromSound.read(run.download(run_id, DEVICE_FROM_SOUND), bands=64)
    assert left.devices == ["a", "b", "c"]
    note = mlflow.get_run(run_id).data.tags["mlflow.note.content"]
    assert f"told above a probability of {left.threshold:.3f}" in note
    assert "taken for another where not learnt" in note
    two = execute(FINETUNE, replace(unchanged, devices=("a", "b")))
    found = [device_from_sound(run, quantized_from(tuned)) for tuned in (run_id, two, "some/file.ckpt")]
    assert [path and path.name for path in found] == [DEVICE_FROM_SOUND, None, None]


def quantized_from(finetune_run: str) -> str:
    """A run of `quantize` as far as it tells what it took."""
    with mlflow.start_run() as run:
        mlflow.set_tags({STAGE: "quantize", f"{UPSTREAM}finetune_run": finetune_run})
    return str(run.info.run_id)


def test_the_last_epoch_is_kept_whatever_it_scores(
    device_config: FinetuneDeviceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune_device_module, "accuracy", lambda predictions, score: 0.5)
    run_id = execute(FINETUNE_DEVICE, device_config)
    assert same_weights(best_of(run_id), last_of(run_id))
    assert len(metric_per_epoch(run_id, "train/loss")) == 2
    assert len(metric_per_epoch(run_id, "val/accuracy")) == 1
    note = mlflow.get_run(run_id).data.tags["mlflow.note.content"]
    assert "The last epoch is kept: validation clips chose nothing" in note
    assert "which chose no checkpoint" in note and "by which the checkpoint was chosen" not in note
    assert all(f"{setting} **" in note for setting in ("start", "fine-tuned"))


def test_a_file_to_start_from_and_no_teacher_is_told_the_way_out(config: FinetuneConfig) -> None:
    with pytest.raises(
        UpstreamError, match=r"no run of stage 'teacher' has finished.*or do without: teacher_runs=none"
    ):
        execute(FINETUNE, replace(config, teacher_runs="latest"))


def test_a_device_learns_from_labels_and_teachers(
    config: FinetuneConfig, teacher_config: TeacherConfig
) -> None:
    taught = execute(TEACHER, teacher_config)
    run_id = execute(FINETUNE, replace(config, devices=("a",), teacher_runs=taught))
    models = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/models.json"))
    for device_run in models.values():
        run = mlflow.get_run(device_run)
        assert {"train/label_loss", "train/distillation_loss", "val/agreement"} <= set(run.data.metrics)
        assert "Teachers: ssl (small_cnn). T = 2, weight = 0.02." in run.data.tags["mlflow.note.content"]


def test_teachers_of_other_data_are_refused_before_any_device(
    config: FinetuneConfig, teacher_config: TeacherConfig, data: DataConfig
) -> None:
    other_split = execute(PREPARE, PrepareConfig(replace(data, validation_share=0.5)))
    taught = execute(TEACHER, replace(teacher_config, prepare_run=other_split))
    with pytest.raises(DataError, match=r"belong to other data.*Or do without teachers: teacher_runs=none"):
        execute(FINETUNE, replace(config, teacher_runs=taught))


def test_unknown_is_trained_on_all_devices_with_more_impulse_responses(config: FinetuneConfig) -> None:
    settings = of_unknown(config)
    assert (settings.device, settings.augment.dir_p) == ("unknown", 0.8)
    assert settings.optim == config.optim


def test_unknown_can_take_epochs_of_its_own_in_one_cosine(config: FinetuneConfig) -> None:
    longer = replace(config, unknown_epochs=7)
    assert of_unknown(longer).optim == replace(config.optim, max_epochs=7, restart_epochs=7)
    assert of_device(longer, "a", 0.0) == of_device(config, "a", 0.0)


def test_what_is_said_of_single_devices_reaches_their_own_models_alone(config: FinetuneConfig) -> None:
    swept = replace(config, augment=replace(PLAIN, dir_p=0.3, dir_devices=("c",), dir_p_of={"a,b": 0.6}))
    other = replace(swept, augment=replace(swept.augment, dir_p_of={"a": 0.6, "b": 0.1}))
    assert of_unknown(swept) == of_unknown(other)
    assert of_unknown(swept).augment == replace(PLAIN, dir_p=0.8, dir_devices=("c",))
    data = SimpleNamespace(training_devices=("a", "b", "c", "d"))
    assert response_probabilities(swept, data) == {"a": 0.6, "b": 0.6, "c": 0.3, "d": 0.0}
    assert of_device(swept, "a", 0.6) == of_device(other, "a", 0.6)
    with pytest.raises(
        UserError, match="augment: dir_p_of names the device 'x' in 'x', the training clips are of a, b, c, d"
    ):
        response_probabilities(replace(config, augment=replace(PLAIN, dir_p_of={"x": 0.1})), data)


def test_zero_epochs_keep_the_start(device_config: FinetuneDeviceConfig, start: str) -> None:
    run_id = execute(FINETUNE_DEVICE, replace(device_config, optim=replace(OPTIM, max_epochs=0)))
    assert same_weights(best_of(run_id), start)


def test_a_device_learns_from_all_clips_its_own_being_half(
    device_config: FinetuneDeviceConfig, training_of: TrainingOf
) -> None:
    alone = training_of(FINETUNE_DEVICE, replace(device_config, device="b", borrowed="none")).train
    every = training_of(FINETUNE_DEVICE, replace(device_config, device="unknown")).train
    both = training_of(FINETUNE_DEVICE, replace(device_config, device="b", borrowed="matched")).train
    assert set(both.filenames) == set(every.filenames) > set(alone.filenames)
    times = Counter(both.filenames)
    others = len(every) - len(alone)
    assert {times[name] for name in alone.filenames} == {round(others / len(alone))}
    assert {times[name] for name in set(every.filenames) - set(alone.filenames)} == {1}


def test_borrowed_clips_come_in_the_devices_colour(
    device_config: FinetuneDeviceConfig, training_of: TrainingOf
) -> None:
    seen = training_of(FINETUNE_DEVICE, replace(device_config, device="b"))
    clips, task = seen.train, seen.task
    plain = training_of(FINETUNE_DEVICE, replace(device_config, device="b", borrowed="none")).task
    assert len(task.feature_augmentations) == len(plain.feature_augmentations) + 1
    batch = clips[range(len(clips))]
    before = with_features(batch, task.classifier.features)
    after = task.feature_augmentations[0](before)
    own = batch.labels.device == clips.devices[clips.filenames.index(own_clip(clips))]
    torch.testing.assert_close(after.features[own], before.features[own], atol=1e-4, rtol=0)
    assert colour_distance(after.features, own) < 0.7 * colour_distance(before.features, own)


def own_clip(clips: ClipSet) -> str:
    """A clip that is there more than once: one of the device itself."""
    return Counter(clips.filenames).most_common(1)[0][0]


def colour_distance(log_mels: torch.Tensor, own: torch.Tensor) -> float:
    """Of the mean spectra of own and of borrowed clips."""
    return float((log_mels[own].mean(dim=(0, 1, 3)) - log_mels[~own].mean(dim=(0, 1, 3))).abs().mean())


def test_a_refit_learns_from_the_validation_clips_too(
    device_config: FinetuneDeviceConfig, training_of: TrainingOf
) -> None:
    config = replace(device_config, device="unknown")
    some = training_of(FINETUNE_DEVICE, config).train
    every = training_of(FINETUNE_DEVICE, replace(config, refit=True)).train
    assert set(every.filenames) > set(some.filenames)


def test_what_a_refit_has_learnt_from_is_said(config: FinetuneConfig) -> None:
    run_id = execute(FINETUNE, replace(config, refit=True, devices=("a",)))
    assert REFIT in mlflow.get_run(run_id).data.tags
    assert "from which the model has learnt" in mlflow.get_run(run_id).data.tags["mlflow.note.content"]


def test_impulse_responses_of_a_devices_model_reach_its_own_clips_alone(
    config: FinetuneConfig, training_of: TrainingOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[NDArray[np.float64]] = []

    def build(
        augment: AugmentConfig, *, p_of_clip: NDArray[np.float64], **others: Any
    ) -> fitting.Augmentations:
        given.append(p_of_clip)
        return fitting.Augmentations([], [], {})

    monkeypatch.setattr(fitting, "build_augmentations", build)
    of_b = of_device(replace(config, augment=replace(PLAIN, dir_p_of={"a": 0.4, "b": 0.1})), "b", 0.1)
    train = training_of(FINETUNE_DEVICE, of_b).train
    (p_of_clip,) = given
    assert set(train.devices) == {0, 1, 2}
    assert np.array_equal(p_of_clip, np.where(train.devices == 1, 0.1, 0.0))


def test_a_device_without_training_clips_cannot_borrow(device_config: FinetuneDeviceConfig) -> None:
    with pytest.raises(UserError, match="device nobody has no training clips"):
        execute(FINETUNE_DEVICE, replace(device_config, device="nobody"))
