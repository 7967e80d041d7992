"""Lightning's trainer, its callbacks and the optimizer, from settings."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch.callbacks import Callback, TQDMProgressBar

from adaptf.pipeline.config import BeatsOptimConfig, OptimConfig, TrainerConfig
from adaptf.training.fit import Watched
from adaptf.training.optim import ConfigureOptimizer, adam_with_warm_restarts, adamw_with_linear_decay


def trainer_options(trainer: TrainerConfig) -> dict[str, Any]:
    """Arguments of lightning.Trainer."""
    return {
        "accelerator": trainer.accelerator,
        "devices": int(trainer.devices) if trainer.devices.isdigit() else trainer.devices,
        "strategy": trainer.strategy,
        "num_nodes": trainer.num_nodes,
        "precision": trainer.precision,
        "accumulate_grad_batches": trainer.accumulate_batches,
        "enable_progress_bar": trainer.progress_bar,
    }


def callbacks(trainer: TrainerConfig, watch: Callable[[int, float], None] | None) -> list[Callback]:
    """The progress bar and who watches."""
    return [
        *([Watched(watch)] if watch else []),
        *([TQDMProgressBar(refresh_rate=5)] if trainer.progress_bar else []),
    ]


def optimizer_of(optim: OptimConfig | BeatsOptimConfig) -> ConfigureOptimizer:
    """The optimizer and schedule of these settings."""
    if isinstance(optim, BeatsOptimConfig):
        return adamw_with_linear_decay(
            lr=optim.lr,
            weight_decay=optim.weight_decay,
            betas=optim.betas,
            warmup_epochs=optim.warmup_epochs,
            max_epochs=optim.max_epochs,
            final_share=optim.final_share,
        )
    return adam_with_warm_restarts(
        lr=optim.lr, restart_epochs=optim.restart_epochs, restart_factor=optim.restart_factor
    )
