"""Impulse responses for data without TAU's device a: whose clips get them, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pytest
import soundfile
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution

from adaptf.data.clip_set import ClipSet
from adaptf.errors import UserError
from adaptf.mlproject.finetune import FINETUNE, FinetuneConfig
from adaptf.mlproject.main import AudioSetConfig, MainConfig, check, check_training_devices
from adaptf.mlproject.prepare import PREPARE, PrepareConfig
from adaptf.mlproject.sweep import put_first
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline import fitting
from adaptf.pipeline.config import AugmentConfig, DataConfig
from adaptf.pipeline.dataset import PreparedData
from adaptf.pipeline.stage import execute

PLAIN = AugmentConfig(dir_p=0.0, mixstyle_p=0.0, mixup_alpha=0.0)
Heard = Callable[[Callable[[], Any]], list[list[float]]]


@pytest.fixture(scope="module")
def phones(environment: dict[str, str], folder: Path) -> str:
    """Id of a `prepare` run of recordings by two phones; a third one records test clips alone."""
    root = folder / "phones"
    root.mkdir()
    noise, rows = np.random.default_rng(0), ["filename,scene,device,location,split"]
    for place, split in enumerate(("train", "train", "validation", "test")):
        for scene in ("airport", "bus"):
            for device in ("nova", "pixel", *(["tablet"] if split == "test" else [])):
                name = f"{scene}{place}-{device}.wav"
                soundfile.write(root / name, 0.1 * noise.standard_normal(32000), 32000)
                rows.append(f"{name},{scene},{device},{scene}{place},{split}")
    (root / "clips.csv").write_text("\n".join(rows))
    data = DataConfig(root=str(root / "clips.csv"), cache=str(folder / "cache"), workers=1)
    return execute(PREPARE, PrepareConfig(data))


@pytest.fixture(scope="module")
def config(train_config: TrainConfig, phones: str) -> TrainConfig:
    return replace(train_config, prepare_run=phones, augment=replace(PLAIN, dir_p=0.5))


@pytest.fixture(scope="module")
def tuning(config: TrainConfig) -> FinetuneConfig:
    checkpoint = mlflow.artifacts.download_artifacts(
        run_id=execute(TRAIN, config), artifact_path="checkpoints/best.ckpt"
    )
    return FinetuneConfig(
        prepare_run=config.prepare_run,
        distill_run=checkpoint,
        teacher_runs="none",
        min_clips=1,
        min_validation_clips=1,
        augment=PLAIN,
        optim=replace(config.optim, max_epochs=1),
        trainer=config.trainer,
    )


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    """The probabilities of impulse responses with which trainings begin, by device."""

    def call(work: Callable[[], Any]) -> list[list[float]]:
        found: list[list[float]] = []
        p_of_clips = fitting.dir_p_of_clips

        def watched(augment: AugmentConfig, data: PreparedData, train: ClipSet) -> NDArray[np.float64]:
            p_of_clip = p_of_clips(augment, data, train)
            devices = range(len(data.devices))
            found.append([float(p_of_clip[train.devices == device].max(initial=0.0)) for device in devices])
            return p_of_clip

        with monkeypatch.context() as patch:
            patch.setattr(fitting, "dir_p_of_clips", watched)
            work()
        return found

    return call


def test_the_default_means_all_devices_where_the_data_has_none_of_its(
    config: TrainConfig, heard: Heard, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(config, seed=1, augment=AugmentConfig())
    assert heard(lambda: execute(TRAIN, settings)) == [[0.4, 0.4, 0.0]]
    told = (
        "No training clips of the data are of a, the default of dir_devices: those of all devices (nova, "
        "pixel) get"
    )
    assert capsys.readouterr().out.count(told) == 1


def test_the_default_means_device_a_where_there_is_one(
    train_config: TrainConfig, heard: Heard, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(train_config, seed=1, augment=AugmentConfig())
    assert heard(lambda: execute(TRAIN, settings)) == [[0.4, 0.0, 0.0]]
    assert "dir_devices" not in capsys.readouterr().out


def test_without_impulse_responses_nothing_is_said_of_devices(
    config: TrainConfig, heard: Heard, capsys: pytest.CaptureFixture[str]
) -> None:
    assert heard(lambda: execute(TRAIN, replace(config, seed=1, augment=PLAIN))) == [[0.0, 0.0, 0.0]]
    assert "dir_devices" not in capsys.readouterr().out


@pytest.mark.parametrize("named", [("nova", "pixle"), ("pixle",), ("tablet",), ("a", "nova")])
def test_a_device_that_there_is_not_is_refused_with_those_that_there_are(
    named: tuple[str, ...], config: TrainConfig
) -> None:
    missing = next(device for device in named if device != "nova")
    told = f"augment: dir_devices names the device '{missing}', the training clips are of nova, pixel"
    with pytest.raises(UserError, match=told):
        execute(TRAIN, replace(config, augment=replace(PLAIN, dir_devices=named)))


def test_main_refuses_a_device_of_a_later_stage_before_anything_is_trained() -> None:
    config = MainConfig()
    check_training_devices(config, ["nova", "pixel"])
    wrong = replace(config, finetune=replace(config.finetune, augment=replace(PLAIN, dir_devices=("pixle",))))
    with pytest.raises(
        UserError, match=r"finetune.augment: dir_devices names the device 'pixle', .* nova, pixel"
    ):
        check_training_devices(wrong, ["nova", "pixel"])
    small = replace(config.teacher.small, augment=replace(PLAIN, dir_p_of={"pixle": 0.5}))
    with pytest.raises(UserError, match=r"teacher.small.augment: dir_p_of names the device 'pixle'"):
        check_training_devices(
            replace(config, teacher=replace(config.teacher, small=small)), ["nova", "pixel"]
        )


def test_main_refuses_devices_of_pre_training_where_there_is_any() -> None:
    config = MainConfig()
    wrong = replace(config, pretrain=replace(config.pretrain, augment=replace(PLAIN, dir_devices=("b",))))
    check_training_devices(wrong, ["a", "b"])
    with pytest.raises(
        UserError,
        match=r"pretrain.augment: dir_devices names the device 'b', the training clips are of unknown",
    ):
        check_training_devices(replace(wrong, audioset=AudioSetConfig("/data/audioset")), ["a", "b"])


@pytest.fixture(params=["no folder", "without audio"])
def wrong_folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[AugmentConfig, str]:
    """Settings, and what is said of them."""
    if request.param == "no folder":
        return replace(PLAIN, dir_folder=str(tmp_path / "irs")), "dir_folder is '.*/irs', which is no folder"
    (tmp_path / "notes.txt").touch()
    return replace(
        PLAIN, dir_folder=str(tmp_path)
    ), r"dir_folder is '.*', which holds no impulse response: \.flac, .* expected"


def test_main_refuses_a_wrong_folder_of_impulse_responses_before_the_first_stage(
    wrong_folder: tuple[AugmentConfig, str],
) -> None:
    augment, said = wrong_folder
    config = MainConfig()
    with pytest.raises(UserError, match=f"finetune.augment: {said}"):
        check(replace(config, finetune=replace(config.finetune, augment=augment)))


def test_finetune_refuses_a_wrong_folder_of_impulse_responses_before_anything_is_trained(
    tuning: FinetuneConfig, heard: Heard, wrong_folder: tuple[AugmentConfig, str]
) -> None:
    augment, said = wrong_folder

    def refused() -> None:
        with pytest.raises(UserError, match=f"augment: {said}"):
            execute(FINETUNE, replace(tuning, augment=augment))

    assert heard(refused) == []


def test_a_stage_alone_refuses_a_wrong_folder_by_the_name_of_its_field(
    config: TrainConfig, wrong_folder: tuple[AugmentConfig, str]
) -> None:
    augment, said = wrong_folder
    with pytest.raises(UserError, match=f"augment: {said}"):
        execute(TRAIN, replace(config, augment=replace(augment, dir_p=0.5)))


def test_unknown_gets_impulse_responses_on_clips_of_all_devices(
    tuning: FinetuneConfig, heard: Heard, capsys: pytest.CaptureFixture[str]
) -> None:
    found = heard(lambda: execute(FINETUNE, tuning))
    assert found == [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.8, 0.8, 0.0]]
    assert "those of all devices (nova, pixel) get impulse responses" in capsys.readouterr().out


def test_a_device_beside_a_gets_none_of_its_impulse_responses(
    train_config: TrainConfig, heard: Heard
) -> None:
    checkpoint = mlflow.artifacts.download_artifacts(
        run_id=execute(TRAIN, train_config), artifact_path="checkpoints/best.ckpt"
    )
    tuning = FinetuneConfig(
        prepare_run=train_config.prepare_run,
        distill_run=checkpoint,
        teacher_runs="none",
        devices=("b",),
        min_clips=1,
        min_validation_clips=1,
        augment=replace(PLAIN, dir_p=0.5),
        optim=replace(train_config.optim, max_epochs=1),
        trainer=train_config.trainer,
    )
    assert heard(lambda: execute(FINETUNE, tuning)) == [[0.0, 0.0, 0.0], [0.8, 0.0, 0.0]]


def test_the_first_trial_of_a_sweep_has_the_probabilities_that_the_settings_mean(config: TrainConfig) -> None:
    study = optuna.create_study()
    space = {"augment.dir_p_of.nova,pixel": FloatDistribution(0.0, 0.8, step=0.1)}
    put_first(study, space, replace(config, augment=AugmentConfig()))
    assert study.get_trials()[0].system_attrs["fixed_params"] == {"augment.dir_p_of.nova,pixel": 0.4}
