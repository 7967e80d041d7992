"""How the benchmarks measure: pairs that take turns in one run, medians, ratios."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

Ways = tuple[str, Callable[[], object], Callable[[], object]]
"""What is done, plainly and as it is done here."""


def machine() -> str:
    """Processor and threads."""
    return f"{processor()}, {torch.get_num_threads()} threads"


def processor() -> str:
    """Cores, and the instructions that torch uses."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor()
    return f"{len(models) or '?'} cores of {name} ({torch.backends.cpu.get_cpu_capability()})"


def seconds_of(function: Callable[[], object]) -> float:
    """One call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_pair(
    plain: Callable[[], object],
    ours: Callable[[], object],
    *,
    clips: int,
    repeats: int,
    before: Callable[[], object] = lambda: None,
) -> tuple[float, float]:
    """Medians in ms per clip, the two taking turns; the first pass, which pays for fresh memory, is left out.

    `before` clears up for `ours` and is not measured.
    """
    plain_seconds, our_seconds = [], []
    for _ in range(repeats + 1):
        plain_seconds.append(seconds_of(plain))
        before()
        our_seconds.append(seconds_of(ours))
    plain_seconds, our_seconds = plain_seconds[1:], our_seconds[1:]
    return statistics.median(plain_seconds) * 1000 / clips, statistics.median(our_seconds) * 1000 / clips
