"""Where the metrics of a training go, as Lightning takes it."""

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class EpochLogger(Logger):
    """Process 0 gives metrics and step to whoever notes them."""

    def __init__(self, note: Callable[[Mapping[str, float], int], None]) -> None:
        super().__init__()
        self._note = note

    @property
    def name(self) -> str:
        """Nothing is written under it."""
        return "metrics"

    @property
    def version(self) -> str:
        """The same."""
        return ""

    def log_hyperparams(self, *given: Any, **named: Any) -> None:
        """A stage's settings are in the run already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Of a step, by default the first."""
        self._note(metrics, step or 0)
