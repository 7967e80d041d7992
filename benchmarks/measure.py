"""How the benchmarks measure: pairs that take turns in one run, medians, ratios."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def machine() -> str:
    """Processor and threads."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models) or '?'} cores of {models[0] if models else platform.processor()}, {torch.get_num_threads()} threads"


def seconds_of(function: Callable[[], object]) -> float:
    """One call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_pair(plain: Callable[[], object], ours: Callable[[], object], *, clips: int, repeats: int) -> tuple[float, float]:
    """Medians in ms per clip, the two taking turns; the first pass, which pays for fresh memory, is left out."""
    taken = [(seconds_of(plain), seconds_of(ours)) for _ in range(repeats + 1)][1:]
    plain_seconds, our_seconds = zip(*taken, strict=True)
    return statistics.median(plain_seconds) * 1000 / clips, statistics.median(our_seconds) * 1000 / clips
