"""Ends of a process that come from outside:
its runs end with it, nested ones too, and the same command goes on with them."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from types import FrameType

from adaptf.paths import RUN_ID
from adaptf.tracking.server import answers

INTERRUPTS = (KeyboardInterrupt, SystemExit)
"""What ends a stage from outside; Lightning makes the latter of the former."""
LAST_SECONDS = 10.0
"""From the interrupt on, for all that nested runs have to say to a server that may hang."""
_PR_SET_PDEATHSIG = 1
_terminated = Event()
"""By SIGTERM, and not by Ctrl-C."""


def end_in_order() -> None:
    """SIGTERM ends this process as Ctrl-C does, and so does, on Linux,
    the end of the `mlflow run` that started it."""
    signal.signal(signal.SIGTERM, _interrupt)
    if RUN_ID in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Once: `mlflow run` sends SIGTERM after Ctrl-C, to a process that is ending its runs already."""
    if not isinstance(sys.exception(), INTERRUPTS):
        _terminated.set()
        raise KeyboardInterrupt


def exit_code() -> int:
    """Of a process that was interrupted: 143 after SIGTERM, by which schedulers and their scripts know that
    the same command goes on elsewhere, and 130 after Ctrl-C."""
    return 128 + (signal.SIGTERM if _terminated.is_set() else signal.SIGINT)


def last_words(interrupt: BaseException, say: Callable[[], object]) -> None:
    """Says it where the server answers in what is left of the time. No error of it hides the interrupt.

    Another thread says it, to which MLflow has no active run, and is left alone when the time is over.
    """
    until = vars(interrupt).setdefault("until", time.monotonic() + LAST_SECONDS)

    def say_if_heard() -> None:
        with suppress(Exception):
            if answers():
                say()

    thread = Thread(target=say_if_heard, daemon=True)
    thread.start()
    thread.join(max(0.0, until - time.monotonic()))
