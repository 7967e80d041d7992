"""A training whose checkpoints are cut off goes on from what is whole, and ends as if nothing had been."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.stage import execute

pytestmark = pytest.mark.slow
EPOCHS = 3

Read = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def config(train_config: TrainConfig) -> TrainConfig:
    return replace(train_config, optim=replace(train_config.optim, max_epochs=EPOCHS, restart_epochs=EPOCHS))


@pytest.fixture(scope="module")
def uninterrupted(config: TrainConfig) -> str:
    return execute(TRAIN, config)


@pytest.fixture
def left(config: TrainConfig, folder: Path) -> Path:
    """The checkpoints of a training that ended in its last epoch."""

    def end(epoch: int, score: float) -> None:
        if epoch == EPOCHS:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        execute(TRAIN, config, watch=end)
    (checkpoints,) = folder.glob("work/train-*/checkpoints")
    return checkpoints


@pytest.mark.parametrize(("cut", "goes_on"), [("last", "best.ckpt"), ("best", "")])
def test_a_training_with_a_cut_off_checkpoint_ends_as_without(
    cut: str,
    goes_on: str,
    config: TrainConfig,
    uninterrupted: str,
    left: Path,
    checkpoint: Read,
    caplog: pytest.LogCaptureFixture,
) -> None:
    os.truncate(left / f"{cut}.ckpt", (left / f"{cut}.ckpt").stat().st_size // 2)
    (left / ".last.ckpt.0123").write_bytes(b"of a process that was killed")
    with caplog.at_level("INFO"):
        resumed = execute(TRAIN, config)
    said = [message for message in caplog.messages if "continues from" in message]
    assert [Path(message).name for message in said] == [goes_on] * bool(goes_on)
    assert any(f"{cut}.ckpt is not gone on with" in message for message in caplog.messages)
    for name in ("best", "last"):
        torch.testing.assert_close(checkpoint(resumed, name), checkpoint(uninterrupted, name), rtol=0, atol=0)
