"""What is said of a schedule before a training: cycles that it does not end."""

from dataclasses import replace

import pytest
import torch

from adaptf.mlproject.distill import DistillConfig
from adaptf.mlproject.pretrain import PretrainConfig
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.config import BeatsOptimConfig, OptimConfig
from adaptf.pipeline.lightning_options import optimizer_of
from adaptf.pipeline.schedule import unended_cycle
from adaptf.pipeline.stage import execute


def test_epochs_that_end_in_the_middle_of_a_cycle_are_told_with_the_ends_beside_them() -> None:
    assert unended_cycle(OptimConfig(max_epochs=200)) == (
        "optim.max_epochs = 200 ends after 50 of a cycle's 160 epochs, with 79% of the highest rate at the "
        "last one: cycles end after 150 or 310 epochs"
    )
    assert unended_cycle(OptimConfig(max_epochs=4)).endswith("cycles end after 10 epochs")


@pytest.mark.parametrize("epochs", [10, 30, 70, 150, 310])
def test_nothing_is_said_where_a_cycle_ends(epochs: int) -> None:
    assert unended_cycle(OptimConfig(max_epochs=epochs)) == ""


def test_nothing_is_said_where_no_rate_restarts() -> None:
    assert (
        unended_cycle(OptimConfig(restart_epochs=0, max_epochs=37)) == unended_cycle(BeatsOptimConfig()) == ""
    )


@pytest.mark.parametrize(
    "optim", [PretrainConfig().optim, TrainConfig().optim, DistillConfig().optim], ids=str
)
def test_our_own_trainings_end_with_a_cycle(optim: OptimConfig) -> None:
    assert unended_cycle(optim) == ""


def test_the_rate_that_is_told_is_the_optimizers() -> None:
    optim = OptimConfig(lr=1.0, max_epochs=25, restart_epochs=3)
    made = optimizer_of(optim)(torch.nn.Linear(1, 1))
    schedule = made["lr_scheduler"]["scheduler"]  # type: ignore[index]
    for _ in range(optim.max_epochs - 1):
        made["optimizer"].step()
        schedule.step()
    assert f"with {schedule.get_last_lr()[0]:.0%} of the highest rate" in unended_cycle(optim)


def test_a_training_says_once_that_it_ends_in_a_cycle(
    train_config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(TRAIN, replace(train_config, optim=replace(train_config.optim, max_epochs=3, restart_factor=2)))
    assert capsys.readouterr().out.count("optim.max_epochs = 3 ends after 1 of a cycle's 4 epochs") == 1


def test_a_factor_that_makes_no_cycle_is_named() -> None:
    with pytest.raises(
        ValueError, match="restart_epochs and restart_factor should be 1 or more, got 10 and 0"
    ):
        unended_cycle(OptimConfig(restart_factor=0))
