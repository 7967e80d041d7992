import math
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from adaptf.training.optim import adam_with_warm_restarts, adamw_with_linear_decay


class Tower(nn.Module):
    """An input layer, a frozen layer, a middle layer and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen, self.middle, self.classifier = (nn.Linear(2, 2) for _ in range(4))
        self.frozen.requires_grad_(False)

    def depth_of(self, parameter_name: str) -> int:
        return ["first", "frozen", "middle", "classifier"].index(parameter_name.split(".")[0])


def decay(**changes: Any) -> Any:
    settings: dict[str, Any] = {"lr": 1.0, "weight_decay": 0.01, "betas": (0.9, 0.98), "final_share": 0.1}
    return adamw_with_linear_decay(**{**settings, "warmup_epochs": 2, "max_epochs": 6, **changes})


def rates(configured: OptimizerLRSchedulerConfig, epochs: int, group: int = 0) -> list[float]:
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]  # type: ignore[index]
    seen = []
    for _ in range(epochs):
        seen.append(optimizer.param_groups[group]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_the_rate_rises_as_published_and_falls_linearly_to_its_final_share() -> None:
    rising = [math.exp(-5 * 0.75**2), math.exp(-5 * 0.5**2)]  # 0.0600, 0.2865
    assert rates(decay()(Tower()), 8) == pytest.approx([*rising, 1.0, 0.775, 0.55, 0.325, 0.1, 0.1])


def test_without_warm_up_the_rate_falls_from_the_first_epoch() -> None:
    assert rates(decay(warmup_epochs=0, max_epochs=4, final_share=0.0)(Tower()), 5) == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_a_warm_up_longer_than_the_training_only_rises() -> None:
    assert rates(decay(warmup_epochs=4, max_epochs=2)(Tower()), 2) == pytest.approx(
        [math.exp(-5 * 0.875**2), math.exp(-5 * 0.75**2)]
    )


def test_the_cosine_restarts_after_ever_longer_times() -> None:
    seen = rates(adam_with_warm_restarts(lr=1.0, restart_epochs=2, restart_factor=2)(Tower()), 7)
    assert seen == pytest.approx([1, 0.5, 1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 1])


def test_without_restarts_the_rate_is_constant() -> None:
    assert rates(adam_with_warm_restarts(lr=0.3, restart_epochs=0, restart_factor=2)(Tower()), 4) == [0.3] * 4


@pytest.mark.parametrize("configure", [decay(), adam_with_warm_restarts(lr=1.0, restart_epochs=2, restart_factor=2)])
def test_one_group_holds_all_parameters_that_need_a_gradient(configure: Any) -> None:
    tower = Tower()
    (group,) = configure(tower)["optimizer"].param_groups
    expected = [*tower.first.parameters(), *tower.middle.parameters(), *tower.classifier.parameters()]
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in expected]


def test_each_layer_learns_slower_than_the_one_above_it() -> None:
    tower = Tower()
    groups = decay(lr=0.8, layer_decay=0.5)(tower)["optimizer"].param_groups
    assert [group["initial_lr"] for group in groups] == pytest.approx([0.1, 0.4, 0.8])
    for group, layer in zip(groups, (tower.first, tower.middle, tower.classifier), strict=True):
        assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in layer.parameters()]


def test_layers_follow_the_schedule_in_their_own_proportion() -> None:
    configure = decay(lr=0.8, layer_decay=0.5)
    lowest, highest = rates(configure(Tower()), 6, group=0), rates(configure(Tower()), 6, group=2)
    assert torch.allclose(torch.tensor(lowest) * 8, torch.tensor(highest))


@pytest.mark.parametrize("layer_decay", [0.0, -0.5, 1.1, math.nan])
def test_a_layer_decay_outside_0_to_1_is_refused(layer_decay: float) -> None:
    with pytest.raises(ValueError, match=f"at most 1, got {layer_decay}"):
        decay(layer_decay=layer_decay)


def test_a_layer_decay_needs_a_network_that_knows_its_depths() -> None:
    with pytest.raises(ValueError, match=r"0\.5 needs a network with depth_of, which Linear has not"):
        decay(layer_decay=0.5)(nn.Linear(2, 2))
