"""Optimizers with their learning-rate schedules, as Lightning takes them."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.nn import Parameter
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingWarmRestarts, LambdaLR, LRScheduler

ConfigureOptimizer = Callable[[nn.Module], OptimizerLRSchedulerConfig]
"""From the module that is trained; parameters that need no gradient are left out."""


@runtime_checkable
class Layered(Protocol):
    """A network that knows how deep each of its parameters lies."""

    def depth_of(self, parameter_name: str) -> int:
        """0 is the input's side; the classifier lies deepest."""


def adam_with_warm_restarts(*, lr: float, restart_epochs: int, restart_factor: int) -> ConfigureOptimizer:
    """Adam; the rate falls as a cosine and restarts after 10, 30, 70, ... epochs for 10 and 2 (Loshchilov, 2017).

    With `restart_epochs` 0 the rate stays as it is.
    """

    def configure(network: nn.Module) -> OptimizerLRSchedulerConfig:
        optimizer = Adam([parameter for _, parameter in _trainable(network)], lr=lr)
        if restart_epochs == 0:
            return _per_epoch(ConstantLR(optimizer, factor=1.0))
        return _per_epoch(CosineAnnealingWarmRestarts(optimizer, T_0=restart_epochs, T_mult=restart_factor))

    return configure


@dataclass(frozen=True)
class Cycle:
    """The cosine in which a training ends."""

    begin: int
    """Epochs before it."""
    end: int
    """Epochs after which the rate restarts."""
    rate: float
    """At the training's last epoch, as a share of the highest."""


def last_cycle(epochs: int, *, restart_epochs: int, restart_factor: int) -> Cycle:
    """Of a training of so many `epochs` with warm restarts. Raises ValueError for restarts that there can't be."""
    if restart_epochs < 1 or restart_factor < 1:
        raise ValueError(f"restart_epochs and restart_factor should be 1 or more, got {restart_epochs} and {restart_factor}")
    begin, length = 0, restart_epochs
    while begin + length < epochs:
        begin, length = begin + length, length * restart_factor
    return Cycle(begin, begin + length, rate=(1 + math.cos(math.pi * (epochs - 1 - begin) / length)) / 2)


def adamw_with_linear_decay(
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    warmup_epochs: int,
    max_epochs: int,
    final_share: float,
    layer_decay: float = 1.0,
) -> ConfigureOptimizer:
    """AdamW; the rate rises as exp(-5 (1 - t)^2) over the warm-up and then falls linearly to `final_share` of itself.

    The rise is that of Laine & Aila (2017), t being the share of the warm-up that is over, counted from its half epoch on.
    A layer's rate is `layer_decay` times that of the layer above it (Howard & Ruder, 2018; Clark et al., 2020; Bao et al.,
    2021). Raises ValueError where `layer_decay` is outside (0, 1], or less than 1 for a network without `depth_of`.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay should be greater than 0 and at most 1, got {layer_decay}")
    down_epochs = max(1, max_epochs - warmup_epochs)

    def factor(epoch: int) -> float:
        if epoch < warmup_epochs:
            return math.exp(-5 * (1 - max(epoch, 0.5) / warmup_epochs) ** 2)
        left = max(0, down_epochs - (epoch - warmup_epochs)) / down_epochs
        return final_share + (1 - final_share) * left

    def configure(network: nn.Module) -> OptimizerLRSchedulerConfig:
        groups = _groups(network, lr=lr, layer_decay=layer_decay)
        return _per_epoch(LambdaLR(AdamW(groups, lr=lr, weight_decay=weight_decay, betas=betas), factor))

    return configure


def _trainable(network: nn.Module) -> Iterator[tuple[str, Parameter]]:
    return ((name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad)


def _groups(network: nn.Module, *, lr: float, layer_decay: float) -> list[dict[str, Any]]:
    """All parameters in one group, or with a layer decay one group per depth, the deepest with the rate `lr`."""
    if layer_decay == 1:
        return [{"params": [parameter for _, parameter in _trainable(network)]}]
    if not isinstance(network, Layered):
        raise ValueError(f"layer_decay {layer_decay} needs a network with depth_of, which {type(network).__name__} has not")
    at_depth: dict[int, list[Parameter]] = defaultdict(list)
    for name, parameter in _trainable(network):
        at_depth[network.depth_of(name)].append(parameter)
    deepest = max(at_depth, default=0)
    return [{"params": at_depth[depth], "lr": lr * layer_decay ** (deepest - depth)} for depth in sorted(at_depth)]


def _per_epoch(schedule: LRScheduler) -> OptimizerLRSchedulerConfig:
    return {"optimizer": schedule.optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
