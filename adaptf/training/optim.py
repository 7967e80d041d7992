"""Optimizers with their learning-rate schedules, as Lightning takes them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.nn import Parameter
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingWarmRestarts, LambdaLR, LRScheduler

ConfigureOptimizer = Callable[[nn.Module], OptimizerLRSchedulerConfig]
"""From the module that is trained; parameters that need no gradient are left out."""


def adam_with_warm_restarts(*, lr: float, restart_epochs: int, restart_factor: int) -> ConfigureOptimizer:
    """Adam; the rate falls as a cosine and restarts after 10, 30, 70, ...
    epochs for 10 and 2 (Loshchilov, 2017).

    With `restart_epochs` 0 the rate stays as it is.
    """

    def configure(network: nn.Module) -> OptimizerLRSchedulerConfig:
        optimizer = Adam(_trainable(network), lr=lr)
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
    """Of a training of so many `epochs` with warm restarts.
    Raises ValueError for restarts that there can't be."""
    if restart_epochs < 1 or restart_factor < 1:
        raise ValueError(
            f"restart_epochs and restart_factor should be 1 or more, got {restart_epochs} and "
            f"{restart_factor}"
        )
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
) -> ConfigureOptimizer:
    """AdamW; the rate rises as exp(-5 (1 - t)^2) over the warm-up and then falls linearly to `final_share` of
    itself.

    The rise is that of Laine & Aila (2017), t being the share of the warm-up that is over,
    counted from its half epoch on.
    """
    down_epochs = max(1, max_epochs - warmup_epochs)

    def factor(epoch: int) -> float:
        if epoch < warmup_epochs:
            return math.exp(-5 * (1 - max(epoch, 0.5) / warmup_epochs) ** 2)
        left = max(0, down_epochs - (epoch - warmup_epochs)) / down_epochs
        return final_share + (1 - final_share) * left

    def configure(network: nn.Module) -> OptimizerLRSchedulerConfig:
        return _per_epoch(
            LambdaLR(AdamW(_trainable(network), lr=lr, weight_decay=weight_decay, betas=betas), factor)
        )

    return configure


def _trainable(network: nn.Module) -> list[Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _per_epoch(schedule: LRScheduler) -> OptimizerLRSchedulerConfig:
    return {"optimizer": schedule.optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
