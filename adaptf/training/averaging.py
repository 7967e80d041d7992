"""Averages of the weights over a training: stochastic weight averaging and the exponential moving average."""

from collections.abc import Callable
from itertools import chain
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

Averaging = Literal["none", "swa", "ema"]
"""`swa`: equal average of the weights at the ends of the last epochs. `ema`: moving average over the steps."""

Average = Callable[[Any, Any, Tensor | int], None]
"""From averaged tensors, which it changes, current tensors, and how many were averaged so far."""


def averaging_callback(kind: Averaging, *, max_epochs: int, share: float, ema_decay: float) -> Callback | None:
    """What averages weights in Lightning's trainer; None for `none`.

    `swa` averages the last `share` of the epochs, at least one (Izmailov et al., 2018), with the optimizer's own schedule.
    `ema` takes an equal average until it holds 1 / (1 - ema_decay) steps, and then decays by `ema_decay` a step (Tarvainen
    & Valpola, 2017). Raises ValueError where `share` is outside (0, 1] or `ema_decay` outside (0, 1).
    """
    if kind == "none":
        return None
    if kind == "ema":
        if not 0 < ema_decay < 1:
            raise ValueError(f"ema_decay should be between 0 and 1, got {ema_decay}")
        return AveragedWeights(moving_average(ema_decay), due=lambda trainer: True)
    if not 0 < share <= 1:
        raise ValueError(f"share should be greater than 0 and at most 1, got {share}")
    first = first_averaged(max_epochs, share)
    return AveragedWeights(moving_average(1.0), due=lambda trainer: trainer.is_last_batch and trainer.current_epoch >= first)


def first_averaged(max_epochs: int, share: float) -> int:
    """Epochs before those that `swa` averages."""
    return max_epochs - max(1, round(share * max_epochs))


def moving_average(decay: float) -> Average:
    """Equal weights while that is less than 1 - decay each, then a moving average; `decay` 1 keeps equal weights throughout.

    Numbers that are no fractions, such as how many batches a normalization has seen, are the current ones.
    """

    def average(averaged: Any, current: Any, count: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            get_ema_multi_avg_fn(min(decay, 1 - 1 / (int(count) + 1)))(averaged, current, count)
            return
        for into, value in zip(averaged, current, strict=True):
            into.copy_(value)

    return average


class AveragedWeights(WeightAveraging):
    """Validates and saves the average once there is one, and the current weights until then.

    Updates come after the steps for which `due` holds: at an epoch's last step rather than at its end, which comes after
    the validation, so that a checkpoint's score is that of its weights. The statistics of batch normalization are
    averaged like the weights: those of the current weights do not fit the average, and measuring its own would take a
    pass over the training clips before each validation.
    """

    def __init__(self, average: Average, *, due: Callable[[L.Trainer], bool]) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=average)
        self.due = due

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # The module moves to its device only after this hook: its average would stay behind on the CPU.
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.due(trainer):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._follow(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._follow(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._follow(pl_module)
        super().on_train_end(trainer, pl_module)

    @torch.no_grad()
    def _follow(self, pl_module: L.LightningModule) -> None:
        """Until averaging has begun, the average is the current weights: Lightning's would be the initial ones."""
        average = self._average_model
        if average is None or average.n_averaged > 0:
            return
        values = chain(pl_module.parameters(), pl_module.buffers())
        for into, value in zip(chain(average.module.parameters(), average.module.buffers()), values, strict=True):
            into.copy_(value)
