"""Options that no other test takes, each on its way to the end of a stage."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import soundfile

from adaptf.errors import UserError
from adaptf.mlproject import main as main_module
from adaptf.mlproject.main import MainConfig, main
from adaptf.mlproject.prepare import PREPARE, PrepareConfig
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.models.teachers.small_cnn import SmallCnnTeacher
from adaptf.pipeline.config import BeatsOptimConfig, DataConfig
from adaptf.pipeline.lightning_options import optimizer_of
from adaptf.pipeline.stage import execute
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.sweeps.space import with_values
from adaptf.tracking.runs import metric_per_epoch
from adaptf.tracking.several import SEEDS
from adaptf.tracking.stage_run import StageRun


@pytest.fixture(scope="module")
def one_epoch(train_config: TrainConfig) -> TrainConfig:
    return replace(train_config, optim=replace(train_config.optim, max_epochs=1))


@pytest.fixture(scope="module")
def plain(one_epoch: TrainConfig) -> str:
    return execute(TRAIN, one_epoch)


@pytest.fixture(scope="module")
def checkpoint_file(plain: str, folder: Path) -> str:
    found = mlflow.artifacts.download_artifacts(
        run_id=plain, artifact_path="checkpoints/best.ckpt", dst_path=str(folder)
    )
    return str(found)


def trained(config: TrainConfig, **values: Any) -> str:
    return execute(
        TRAIN, with_values(config, {name.replace("__", "."): value for name, value in values.items()})
    )


def losses(run_id: str) -> list[float]:
    found = metric_per_epoch(run_id, "train/loss")
    assert np.isfinite(found).all()
    return found


@pytest.mark.parametrize(
    "values",
    [
        {"trainer__pin_memory": True, "trainer__workers": 1},
        {"trainer__keep_on_device": "yes"},
        {"trainer__keep_on_device": "no"},
        {"trainer__devices": "auto"},
        {"trainer__progress_bar": True},
    ],
    ids=str,
)
def test_how_a_training_reads_and_shows_changes_no_result(
    values: dict[str, Any], one_epoch: TrainConfig, plain: str
) -> None:
    assert losses(trained(one_epoch, **values)) == losses(plain)


@pytest.mark.parametrize(
    "values",
    [
        {"trainer__precision": "bf16-mixed"},
        {"trainer__precision": "64-true"},
        {"trainer__accumulate_batches": 2, "optim__batch_size": 5},
        {"optim__restart_epochs": 1, "optim__restart_factor": 3},
        {"optim__restart_epochs": 0},
        {"augment__mixstyle_alpha": 0.1},
        {"model__dropout": 0.5},
        {"model__depth": 6},
        {"mel__n_fft": 2048, "mel__window_samples": 2000},
        {"mel__hop_samples": 400},
    ],
    ids=str,
)
def test_a_setting_of_model_or_training_makes_another_training(
    values: dict[str, Any], train_config: TrainConfig
) -> None:
    assert losses(trained(train_config, **values)) != losses(execute(TRAIN, train_config, reuse=True))


def test_measured_responses_and_their_levels_make_other_trainings(
    one_epoch: TrainConfig, plain: str, tmp_path: Path
) -> None:
    soundfile.write(
        tmp_path / "microphone.wav", np.array([0.0, 0.0, 0.02, 0.04, 0.01]), 44100, subtype="FLOAT"
    )
    unit = losses(trained(one_epoch, augment__dir_folder=str(tmp_path)))
    recorded = losses(trained(one_epoch, augment__dir_folder=str(tmp_path), augment__dir_level="as_recorded"))
    assert unit != losses(plain) and unit != recorded


def test_clips_of_16_bit_train_as_those_of_32(one_epoch: TrainConfig, plain: str, data: DataConfig) -> None:
    prepared = execute(PREPARE, PrepareConfig(replace(data, sample_type="int16")))
    assert losses(execute(TRAIN, replace(one_epoch, prepare_run=prepared))) == pytest.approx(
        losses(plain), rel=0.02
    )


def test_a_start_brings_all_but_its_classifier(one_epoch: TrainConfig, checkpoint_file: str) -> None:
    run_id = trained(one_epoch, pretrain_run=checkpoint_file)
    note = mlflow.get_run(run_id).data.tags["mlflow.note.content"]
    fresh = next(line for line in note.splitlines() if line.startswith("- fresh"))
    assert "classifier" in fresh


@pytest.mark.parametrize(
    ("epochs", "told"), [(0, "should be 1 or more, got 0"), (-1, "is -1: it should be 0 or more")]
)
def test_a_training_of_no_epochs_is_refused(epochs: int, told: str, one_epoch: TrainConfig) -> None:
    with pytest.raises(UserError, match=f"optim.max_epochs {told}"):
        trained(one_epoch, optim__max_epochs=epochs)


def test_log_mels_of_another_rate_than_the_clips_are_refused(one_epoch: TrainConfig) -> None:
    with pytest.raises(UserError, match=r"mel\.sample_rate is 16000: it should be 32000"):
        trained(one_epoch, mel__sample_rate=16000)


def test_a_teacher_with_several_seeds_has_a_child_run_for_each(teacher_config: TeacherConfig) -> None:
    parent = mlflow.get_run(execute(TEACHER, replace(teacher_config, seeds=(0, 1))))
    assert set(SEEDS.children(parent)) == {0, 1}
    assert "best/accuracy/mean" in parent.data.metrics


def test_the_settings_of_beats_reach_its_optimizer() -> None:
    optim = BeatsOptimConfig(
        lr=0.1, weight_decay=0.2, betas=(0.5, 0.6), warmup_epochs=0, max_epochs=4, final_share=0.5
    )
    made: Any = optimizer_of(optim)(SmallCnnTeacher(classes=2, width=8))
    (group,) = made["optimizer"].param_groups
    assert (group["weight_decay"], group["betas"], group["lr"]) == (0.2, (0.5, 0.6), 0.1)


@pytest.mark.parametrize(("deploy", "repeat"), [(False, True), (True, False)])
def test_main_ends_with_the_tables_or_with_models_in_production(
    deploy: bool, repeat: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: dict[str, bool] = {}
    checked: list[tuple[list[str], Any]] = []

    def note(stage: Any, settings: Any, *, reuse: bool, **_: Any) -> str:
        ran[stage.name] = reuse
        return str(stage.name)

    monkeypatch.setattr(main_module, "execute", note)
    monkeypatch.setattr(
        main_module, "check_training_devices", lambda _, devices: checked.append((list(ran), devices))
    )
    monkeypatch.setattr(main_module, "load_tested", lambda *_: SmallData)
    monkeypatch.setattr(main_module, "closing_words", lambda run, evaluated, promoted: promoted)
    monkeypatch.setattr(main_module, "steps_note", lambda run_id: "")
    monkeypatch.setattr(main_module.runs, "scores", lambda run_id: {})
    result = main(MainConfig(deploy=deploy, repeat=repeat), StageRun("", "main", tmp_path))
    assert checked == [(["prepare"], SmallData.training_devices)]
    assert set(ran.values()) == {not repeat}
    assert ({"register", "promote"} <= set(ran)) == deploy
    assert list(ran)[:2] == ["prepare", "train"] and "evaluate" in ran
    assert result.summary == ("promote" if deploy else "none")


class SmallData:
    """What `main` asks the prepared data for."""

    training_devices = ("a",)
