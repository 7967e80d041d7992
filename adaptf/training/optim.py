"""Optimizers with their learning-rate schedules, as Lightning takes them."""

from collections.abc import Callable, Iterable

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.nn import Parameter
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, LRScheduler

ConfigureOptimizer = Callable[[Iterable[Parameter]], OptimizerLRSchedulerConfig]


def adam_with_warm_restarts(*, lr: float, restart_epochs: int, restart_factor: int) -> ConfigureOptimizer:
    """Adam; the rate falls as a cosine and restarts after 10, 30, 70, ... epochs for 10 and 2 (Loshchilov, 2017)."""

    def configure(parameters: Iterable[Parameter]) -> OptimizerLRSchedulerConfig:
        optimizer = Adam(parameters, lr=lr)
        return _per_epoch(CosineAnnealingWarmRestarts(optimizer, T_0=restart_epochs, T_mult=restart_factor))

    return configure


def adamw_with_linear_decay(
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    warmup_epochs: int,
    max_epochs: int,
    final_share: float,
) -> ConfigureOptimizer:
    """AdamW; the rate rises over the warm-up epochs and then falls linearly to `final_share` of itself."""

    def factor(epoch: int) -> float:
        if epoch < warmup_epochs:
            return (epoch + 1) / (warmup_epochs + 1)
        progress = (epoch - warmup_epochs) / max(1, max_epochs - 1 - warmup_epochs)
        return 1 - (1 - final_share) * min(1.0, progress)

    def configure(parameters: Iterable[Parameter]) -> OptimizerLRSchedulerConfig:
        return _per_epoch(LambdaLR(AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=betas), factor))

    return configure


def _per_epoch(schedule: LRScheduler) -> OptimizerLRSchedulerConfig:
    return {"optimizer": schedule.optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
