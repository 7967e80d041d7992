"""The end of a training that has diverged:
its weights are no numbers any more, and none of its scores means anything."""

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from adaptf.errors import UserError


class Diverged(UserError):
    """A training whose loss or weights are no longer finite."""


class StopDiverged(Callback):
    """Raises Diverged at the first epoch whose loss or weights are not finite,
    before any checkpoint of it is written.

    Lightning's EarlyStopping(check_finite=True) would end the training as if it were done.
    """

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        _check(trainer, task, "val/loss")

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        _check(trainer, task, "train/loss")


def _check(trainer: L.Trainer, task: L.LightningModule, loss: str) -> None:
    """Both are the same in all processes, which so end together."""
    value = trainer.callback_metrics[loss]
    weights = [tensor for tensor in task.state_dict().values() if tensor.is_floating_point()]
    finite = bool(torch.stack([tensor.isfinite().all() for tensor in weights]).all())
    if finite and value.isfinite():
        return
    raise Diverged(
        f"the training has diverged in epoch {trainer.current_epoch + 1}: {loss} is {float(value):.3g}"
        f"{'' if finite else ', and weights are not finite'}. Try a tenth of the learning rate (optim.lr), "
        f"or trainer.precision=32-true where it is another"
    )
