"""Stages on a tiny data set of noise, each module with a store, a work folder and a cache of its own."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from adaptf.data.clip_set import ClipSet
from adaptf.mlproject import fitting
from adaptf.mlproject.config import AugmentConfig, DataConfig, MelConfig, ModelConfig, OptimConfig, TrainerConfig
from adaptf.mlproject.distill import DistillConfig
from adaptf.mlproject.prepare import PrepareConfig, data_digest, prepare
from adaptf.mlproject.stage import execute
from adaptf.mlproject.teacher import SmallTeacherConfig, TeacherConfig
from adaptf.mlproject.train import TrainConfig
from adaptf.training.task import ClassifierTask

SCENES = ("airport", "bus")
MEL, MODEL = MelConfig(bands=64), ModelConfig(width=8)
TRAINER = TrainerConfig(accelerator="cpu", devices="1", workers=0, progress_bar=False)
AUGMENT = AugmentConfig(dir_p=0.5, mixstyle_p=0.5, mixup_alpha=0.3)
TWO_EPOCHS = OptimConfig(lr=0.01, batch_size=16, max_epochs=2, restart_epochs=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlproject")


@pytest.fixture(scope="module")
def environment(folder: Path) -> Iterator[dict[str, str]]:
    """The variables that make MLflow and the stages work in `folder`, also for processes started with them."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("ADAPTF_WORK", str(folder / "work"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONUNBUFFERED", "1")
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
            patch.setenv(name, "")  # so that what a stage sets is taken away again
            patch.delenv(name)
        former = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(uri)
        mlflow.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
        yield dict(os.environ)
        mlflow.set_tracking_uri(former)


@pytest.fixture(scope="module")
def data(folder: Path) -> DataConfig:
    """36 clips of two scenes and three devices; 24 are for training and validation."""
    noise = Path(__file__).parents[1] / "data" / "conftest.py"
    specification = importlib.util.spec_from_file_location("noise_data", noise)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    root = module.write_tau(folder / "tau", scenes=SCENES)
    return DataConfig(root=str(root), scenes=SCENES, validation_share=0.25, cache=str(folder / "cache"), workers=1)


@pytest.fixture(scope="module")
def prepared(environment: dict[str, str], data: DataConfig) -> str:
    """Id of a `prepare` run."""
    return execute(prepare, PrepareConfig(data), inputs=data_digest)


@pytest.fixture(scope="module")
def train_config(prepared: str) -> TrainConfig:
    """From scratch, two epochs."""
    return TrainConfig(
        prepare_run=prepared, pretrain_run="none", mel=MEL, model=MODEL, augment=AUGMENT, optim=TWO_EPOCHS, trainer=TRAINER
    )


@pytest.fixture(scope="module")
def teacher_config(prepared: str) -> TeacherConfig:
    small = SmallTeacherConfig(width=8, mel=MEL, augment=AUGMENT, optim=replace(TWO_EPOCHS, max_epochs=1))
    return TeacherConfig(prepare_run=prepared, small=small, trainer=TRAINER)


@pytest.fixture(scope="module")
def distill_config(prepared: str) -> DistillConfig:
    return DistillConfig(prepare_run=prepared, augment=AUGMENT, optim=replace(TWO_EPOCHS, max_epochs=1), trainer=TRAINER)


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Callable[..., dict[str, torch.Tensor]]:
    """The weights in a run's checkpoint."""

    def read(run_id: str, name: str = "best") -> dict[str, torch.Tensor]:
        path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=f"checkpoints/{name}.ckpt")
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        return state

    return read


@pytest.fixture(scope="module")
def kill_when(environment: dict[str, str], folder: Path) -> Callable[[list[str], Callable[[list[str]], bool]], str]:
    """`kill_when(command, is_time) -> said`: kills a process as soon as the lines that it has said so far are those."""

    def kill(command: list[str], is_time: Callable[[list[str]], bool]) -> str:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=folder
        )
        assert process.stdout
        said = []
        for line in process.stdout:
            said.append(line)
            if is_time(said):
                process.send_signal(signal.SIGKILL)
                break
        said.append(process.stdout.read())
        assert process.wait(60) == -signal.SIGKILL, "".join(said)
        return "".join(said)

    return kill


@pytest.fixture(scope="module")
def command(prepared: str) -> list[str]:
    """`train` from scratch as a process; its fields follow."""
    fields = {
        "prepare_run": prepared,
        "pretrain_run": "none",
        "mel.bands": "64",
        "model.width": "8",
        "optim.batch_size": "8",
        "optim.lr": "0.01",
        "trainer.accelerator": "cpu",
        "trainer.workers": "0",
        "trainer.progress_bar": "false",
    }
    return [sys.executable, "-m", "adaptf.mlproject.train", *(f"--{name}={value}" for name, value in fields.items())]


@dataclass(frozen=True)
class Training:
    """What reaches Lightning's training."""

    task: ClassifierTask
    train: ClipSet
    validation: ClipSet | None


@pytest.fixture
def training_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Training]:
    """The training that a stage (and its configuration) would begin; it ends there."""

    def begun(stage: Callable[..., Any], config: Any) -> Training:
        seen: list[Training] = []

        def stop(task: ClassifierTask, *, train: ClipSet, validation: ClipSet | None, **others: Any) -> None:
            seen.append(Training(task, train, validation))
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(fitting, "fit", stop)
            execute(stage, config)
        return seen[0]

    return begun
