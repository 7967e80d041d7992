"""Processes that work beside this one, and end with it however it ends."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor


def process_pool(workers: int, *, fresh: bool = False) -> ProcessPoolExecutor:
    """A pool whose processes are copies of this one where the system makes copies safely,
    else (or if asked for) fresh ones."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" and not fresh else "spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """A killed parent can't tell its processes to end, and they would keep its locks.
    Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a copy would have what the parent does
    threading.Thread(target=_wait_for_parents_end, daemon=True).start()


def _wait_for_parents_end() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
