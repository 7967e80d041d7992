"""Speed of the batched transforms against the plain way of doing the same: pairs in one run, medians, ratios.

python benchmarks/transforms.py
"""

import statistics
import time
from collections.abc import Callable

import torch
from scipy.signal import fftconvolve
from torch import Tensor

from adaptf.audio.impulse_response import simulated_bank
from adaptf.audio.logmel import LogMel
from adaptf.models.residual_normalization import ResidualNormalization
from adaptf.training.memory import keep_freed_memory

BATCH, SAMPLES, REPEATS = 64, 32000, 9


def main() -> None:
    """Prints a table of medians in ms per clip."""
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, batch {BATCH}, median of {REPEATS}, ms per clip")
    print(f"{'':42}{'plain':>9}{'adaptf':>9}{'ratio':>8}")
    for name, plain, ours in (filterbank(), impulse_responses(), residual_normalization()):
        plain_ms, our_ms = measure_pair(plain, ours)
        print(f"{name:42}{plain_ms:9.3f}{our_ms:9.3f}{plain_ms / our_ms:7.1f}x")


def filterbank() -> tuple[str, Callable[[], object], Callable[[], object]]:
    """The mel product with a dense matrix against banded blocks."""
    logmel = LogMel(bands=512)
    power = torch.rand(BATCH, 2049, 64)
    return (
        "mel filterbank, 512 bands: dense, banded",
        lambda: logmel.filters @ power,
        lambda: torch.cat([logmel.filters[rows, columns] @ power[:, columns] for rows, columns in logmel.blocks], dim=1),
    )


def impulse_responses() -> tuple[str, Callable[[], object], Callable[[], object]]:
    """A convolution per clip against one product of spectra; reading responses from disk is left out on both sides."""
    bank = simulated_bank(sample_rate=32000)
    waveform, choice = torch.randn(BATCH, SAMPLES), torch.randint(len(bank), (BATCH,))

    def one_by_one() -> Tensor:
        pairs = zip(waveform.numpy(), bank.responses[choice].numpy(), strict=True)
        return torch.stack([torch.from_numpy(fftconvolve(clip, response)[:SAMPLES]) for clip, response in pairs])

    return "impulse responses: clip by clip, batched", one_by_one, lambda: bank.convolve(waveform, choice)


def residual_normalization() -> tuple[str, Callable[[], object], Callable[[], object]]:
    """Forward and backward: autograd's chain of operations against one function with its analytic gradient."""
    x = torch.randn(BATCH, 64, 128, 16, requires_grad=True)
    norm = ResidualNormalization()

    def chain() -> None:
        variance, mean = torch.var_mean(x, dim=(1, 3), keepdim=True)
        (0.1 * x + (x - mean) / (variance + 1e-5).sqrt()).sum().backward()

    return "residual normalization: chain, one function", chain, lambda: norm(x).sum().backward()


def measure_pair(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Medians in ms per clip, the two taking turns; the first pass, which pays for fresh memory, is left out."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(REPEATS + 1):
        for taken, function in zip(seconds, (first, second), strict=True):
            start = time.perf_counter()
            function()
            if repeat:
                taken.append(time.perf_counter() - start)
    first_ms, second_ms = (statistics.median(taken) * 1000 / BATCH for taken in seconds)
    return first_ms, second_ms


if __name__ == "__main__":
    main()
