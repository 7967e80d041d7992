"""What a training's schedule should not do unseen:
end in the middle of a cycle, or average over a restart."""

import math

from lightning.pytorch.callbacks import Callback

from adaptf.errors import UserError
from adaptf.pipeline.config import BeatsOptimConfig, OptimConfig
from adaptf.training.averaging import averaging_callback, first_averaged
from adaptf.training.optim import Cycle, last_cycle


def _cycle_of(optim: OptimConfig | BeatsOptimConfig) -> Cycle | None:
    """The cycle of the rate in which a training ends; None where the rate does not restart."""
    if isinstance(optim, BeatsOptimConfig) or optim.restart_epochs < 1:
        return None
    return last_cycle(
        optim.max_epochs, restart_epochs=optim.restart_epochs, restart_factor=optim.restart_factor
    )


def unended_cycle(optim: OptimConfig | BeatsOptimConfig) -> str:
    """That the training ends in the middle of a cycle, in words; empty where it does not."""
    cycle, epochs = _cycle_of(optim), optim.max_epochs
    if cycle is None or epochs == cycle.end:
        return ""
    ends = [str(end) for end in (cycle.begin, cycle.end) if end]
    return (
        f"optim.max_epochs = {epochs} ends after {epochs - cycle.begin} of a cycle's "
        f"{cycle.end - cycle.begin} epochs, with {cycle.rate:.0%} of the highest rate at the last one: "
        f"cycles end after {' or '.join(ends)} epochs"
    )


def averaging_of(optim: OptimConfig | BeatsOptimConfig) -> Callback | None:
    """What averages weights. Raises UserError where equal averages would mix weights from before and after a
    restart, and ValueError for a number out of range."""
    average, cycle = optim.average, _cycle_of(optim)
    made = averaging_callback(
        average.kind, max_epochs=optim.max_epochs, share=average.share, ema_decay=average.ema_decay
    )
    first = first_averaged(optim.max_epochs, average.share)
    if average.kind == "swa" and cycle is not None and first < cycle.begin:
        highest = math.floor(100 * (optim.max_epochs - cycle.begin) / optim.max_epochs) / 100
        raise UserError(
            f"optim.average.kind = swa averages epochs {first + 1} to {optim.max_epochs}, and after epoch "
            f"{cycle.begin} the rate restarts at its highest: take optim.max_epochs = {cycle.begin} or "
            f"{cycle.end}, an optim.average.share of at most {highest}, or ema"
        )
    return made
