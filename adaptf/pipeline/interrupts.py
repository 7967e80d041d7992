"""Ends of a process that come from outside:
its runs end with it, nested ones too, and the same command goes on with them."""

import ctypes
import os
import signal
import sys
from types import FrameType

from adaptf.paths import RUN_ID

INTERRUPTS = (KeyboardInterrupt, SystemExit)
"""What ends a stage from outside; Lightning makes the latter of the former."""
_PR_SET_PDEATHSIG = 1


def end_in_order() -> None:
    """SIGTERM ends this process as Ctrl-C does, and so does, on Linux,
    the end of the `mlflow run` that started it."""
    signal.signal(signal.SIGTERM, _interrupt)
    if RUN_ID in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Once: `mlflow run` sends SIGTERM after Ctrl-C, to a process that is ending its runs already."""
    if not isinstance(sys.exception(), INTERRUPTS):
        raise KeyboardInterrupt
