"""Refits: trainings on the validation clips too, for a fixed number of epochs,
and what those clips can judge no more."""

from collections.abc import Sequence
from dataclasses import replace

from adaptf.data.clips import TRAIN, VALIDATION
from adaptf.errors import UserError
from adaptf.pipeline.lineage import refits_behind
from adaptf.tracking.checkpoint_files import files_of
from adaptf.tracking.outcome import Result
from adaptf.tracking.tags import REFIT


def learnt_splits(refit: bool) -> tuple[str, ...]:
    """The splits of the clips that a training learns from."""
    return (TRAIN, VALIDATION) if refit else (TRAIN,)


def as_refit(result: Result) -> Result:
    """A training's result that tells later stages what its model has learnt from."""
    return replace(result, tags={**result.tags, REFIT: "true"})


def refits_of(value: str, device: str | None = None) -> list[str]:
    """Names of the refits among a run and those that it came from; of checkpoint files nothing is known."""
    return [] if files_of(value) else refits_behind(value, device)


def check_choice(field: str, value: str) -> None:
    """Raises UserError where validation clips would choose among models that have learnt from them."""
    if refits := refits_of(value):
        raise UserError(
            f"{field}={value} has learnt from the validation clips (refit of {', '.join(refits)}), which "
            f"therefore can't choose among epochs or settings here: set refit=true too, with the number of "
            f"epochs as optim.max_epochs, or build on another run"
        )


def what_clips_judge(refits: Sequence[str], *, chose: bool = True) -> str:
    """What a reader has to know of scores on validation clips, as the end of a sentence; `chose`:
    whether a checkpoint."""
    if refits:
        return f"**from which the model has learnt** (refit of {', '.join(refits)}): such scores are too good"
    return "by which the checkpoint was chosen" if chose else "which chose no checkpoint"
