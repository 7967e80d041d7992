"""What a training's schedule should not do unseen: end in the middle of a cycle."""

from adaptf.pipeline.config import BeatsOptimConfig, OptimConfig
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
