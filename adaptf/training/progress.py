"""One line per epoch, for terminals without a progress bar and for logs."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


class EpochLines(Callback):
    """Prints loss, score, time per epoch and what remains."""

    def __init__(self, name: str, metric_name: str) -> None:
        self.name, self.metric_name = name, metric_name
        self.started = self.first_epoch = 0.0

    def on_train_start(self, trainer: L.Trainer, task: Any) -> None:
        self.started, self.first_epoch = time.monotonic(), trainer.current_epoch

    def on_train_epoch_end(self, trainer: L.Trainer, task: Any) -> None:
        if not trainer.is_global_zero:
            return
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 0
        seconds = (time.monotonic() - self.started) / (epoch - self.first_epoch)
        values = trainer.callback_metrics
        score = values.get(f"val/{self.metric_name}")
        parts = [f"{self.name}  epoch {epoch}/{epochs}", f"loss {float(values['train/loss']):.4f}"]
        if score is not None:
            parts.append(f"validation {self.metric_name} {float(score):.3f}")
        parts.append(f"{seconds:.1f} s an epoch, {_duration(seconds * (epochs - epoch))} left")
        print("  ".join(parts), flush=True)


def _duration(seconds: float) -> str:
    """A time as a person says it: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
