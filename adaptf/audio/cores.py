"""Threads that compute on one processor core each, on parts that stay in its cache: for many small operations
faster than all cores together on each of them."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch
from torch import Tensor

CLIPS_AT_ONCE = 8
"""That a network answers on a core: more leave its cache, fewer don't fill its operations."""

_one_at_a_time = threading.Lock()


def in_parts(function: Callable[[Tensor], Tensor], rows: Tensor, size: int = CLIPS_AT_ONCE) -> Tensor:
    """What the function makes of rows: on a CPU of `size` at a time, where no gradient is asked for each on a
    core of its own.

    The function may be called by several threads at a time.
    """
    if rows.device.type != "cpu":
        return function(rows)
    parts = rows.split(size)
    alone = torch.get_num_threads() == 1 or len(parts) == 1
    if alone or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.cat([function(part) for part in parts])
    # Each thread has these modes for itself.
    inference = torch.is_inference_mode_enabled()
    half, precision = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def answer(part: Tensor) -> Tensor:
        with torch.inference_mode(inference), torch.no_grad(), torch.autocast("cpu", precision, half):
            return function(part)

    return torch.cat(list(workers().map(answer, parts)))


def workers() -> ThreadPoolExecutor:
    """As many threads as torch uses in this process, which all that computes in it shares."""
    with _one_at_a_time:
        return _workers_of(os.getpid(), torch.get_num_threads())


@cache
def _workers_of(process: int, threads: int) -> ThreadPoolExecutor:
    """`process`: a forked one has none of its parent's threads, and gets its own."""
    pool = ThreadPoolExecutor(threads, "adaptf-cores", initializer=compute_alone)
    all_there = threading.Barrier(threads)
    wait([pool.submit(all_there.wait) for _ in range(threads)])
    # What a worker sets for itself is also what torch gives to later threads of the program; it is put back.
    torch.set_num_threads(threads)
    return pool


def compute_alone() -> None:
    """What the calling thread computes, it computes on one core. Threads that are started later inherit this,
    unless another thread sets the number anew."""
    torch.get_num_threads()  # The first call in a thread sets its number to the program's.
    torch.set_num_threads(1)
