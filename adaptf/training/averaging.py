"""Averages of the weights over a training: stochastic weight averaging and the exponential moving average."""

from collections.abc import Callable
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

Averaging = Literal["none", "swa", "ema"]
"""`swa`: equal average of the weights at the ends of the last epochs. `ema`:
moving average over the steps."""


def averaging_callback(
    kind: Averaging, *, max_epochs: int, share: float, ema_decay: float
) -> Callback | None:
    """What averages weights in Lightning's trainer; None for `none`.

    `swa` averages the last `share` of the epochs, at least one (Izmailov et al., 2018), with the optimizer's
    own schedule. `ema` takes an equal average until it holds 1 / (1 - ema_decay) steps, and then decays by
    `ema_decay` a step (Tarvainen & Valpola, 2017).
    Raises ValueError where `share` is outside (0, 1] or `ema_decay` outside (0, 1).
    """
    if kind == "none":
        return None
    if kind == "ema":
        if not 0 < ema_decay < 1:
            raise ValueError(f"ema_decay should be between 0 and 1, got {ema_decay}")
        return _AveragedWeights(lambda trainer: min(ema_decay, _equal(trainer.global_step)))
    if not 0 < share <= 1:
        raise ValueError(f"share should be greater than 0 and at most 1, got {share}")
    first = first_averaged(max_epochs, share)
    return _AveragedWeights(
        lambda trainer: _equal(trainer.current_epoch + 1 - first) if trainer.is_last_batch else 1.0
    )


def first_averaged(max_epochs: int, share: float) -> int:
    """Epochs before those that `swa` averages."""
    return max_epochs - max(1, round(share * max_epochs))


def _equal(number: int) -> float:
    """What an equal average of so many keeps when it takes in the last of them; 0 before the first."""
    return 1 - 1 / max(1, number)


class _AveragedWeights(WeightAveraging):
    """Validates and saves the average, of which a step keeps the share `kept`:
    of 0 the current weights remain, of 1 it stays.

    Updates come at an epoch's last step rather than at its end, which comes after the validation, so that a
    checkpoint's score is that of its weights. The statistics of batch normalization are averaged like the
    weights: those of the current weights do not fit the average, and measuring its own would take a pass over
    the training clips before each validation.
    """

    def __init__(self, kept: Callable[[L.Trainer], float]) -> None:
        super().__init__(multi_avg_fn=self._average)
        self._kept_by, self._kept = kept, 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # The module moves to its device only after this hook: its average would stay behind on the CPU.
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._kept = self._kept_by(trainer)
        if self._kept < 1:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _average(self, averaged: Any, current: Any, count: Tensor | int) -> None:
        """In place. Numbers that are no fractions, such as how many batches a normalization has seen,
        are the current ones."""
        decay = self._kept if averaged[0].is_floating_point() else 0.0
        get_ema_multi_avg_fn(decay)(averaged, current, count)
