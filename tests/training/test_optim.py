import math
from typing import Any

import pytest
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from adaptf.training.optim import adam_with_warm_restarts, adamw_with_linear_decay


class Tower(nn.Module):
    """An input layer, a frozen layer, a middle layer and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen, self.middle, self.classifier = (nn.Linear(2, 2) for _ in range(4))
        self.frozen.requires_grad_(False)


def decay(**changes: Any) -> Any:
    settings: dict[str, Any] = {"lr": 1.0, "weight_decay": 0.01, "betas": (0.9, 0.98), "final_share": 0.1}
    return adamw_with_linear_decay(**{**settings, "warmup_epochs": 2, "max_epochs": 6, **changes})


def rates(configured: OptimizerLRSchedulerConfig, epochs: int) -> list[float]:
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]  # type: ignore[index]
    seen = []
    for _ in range(epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_the_rate_rises_as_published_and_falls_linearly_to_its_final_share() -> None:
    rising = [math.exp(-5 * 0.75**2), math.exp(-5 * 0.5**2)]  # 0.0600, 0.2865
    assert rates(decay()(Tower()), 8) == pytest.approx([*rising, 1.0, 0.775, 0.55, 0.325, 0.1, 0.1])


def test_without_warm_up_the_rate_falls_from_the_first_epoch() -> None:
    assert rates(decay(warmup_epochs=0, max_epochs=4, final_share=0.0)(Tower()), 5) == pytest.approx(
        [1, 0.75, 0.5, 0.25, 0]
    )


def test_a_warm_up_longer_than_the_training_only_rises() -> None:
    assert rates(decay(warmup_epochs=4, max_epochs=2)(Tower()), 2) == pytest.approx(
        [math.exp(-5 * 0.875**2), math.exp(-5 * 0.75**2)]
    )


def test_the_cosine_restarts_after_ever_longer_times() -> None:
    seen = rates(adam_with_warm_restarts(lr=1.0, restart_epochs=2, restart_factor=2)(Tower()), 7)
    assert seen == pytest.approx([1, 0.5, 1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 1])


def test_without_restarts_the_rate_is_constant() -> None:
    assert rates(adam_with_warm_restarts(lr=0.3, restart_epochs=0, restart_factor=2)(Tower()), 4) == [0.3] * 4


@pytest.mark.parametrize(
    "configure", [decay(), adam_with_warm_restarts(lr=1.0, restart_epochs=2, restart_factor=2)]
)
def test_one_group_holds_all_parameters_that_need_a_gradient(configure: Any) -> None:
    tower = Tower()
    (group,) = configure(tower)["optimizer"].param_groups
    expected = [*tower.first.parameters(), *tower.middle.parameters(), *tower.classifier.parameters()]
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in expected]
