"""Speed of the batched transforms against the plain way of doing the same: pairs in one run, medians, ratios.

python benchmarks/transforms.py
"""

from collections.abc import Iterator

import torch
from kept import Pair, command_line, keep, show
from measure import Ways, machine, measure_pair

from adaptf.audio.logmel import LogMel
from adaptf.models.residual_normalization import ResidualNormalization
from adaptf.training.memory import keep_freed_memory

BATCH, REPEATS = 64, 9


def main() -> None:
    """Prints a table of medians."""
    args = command_line(__doc__).parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"{machine()}, batch {BATCH}, medians of {REPEATS}\n")
    keep(show(pairs()), args.keep)


def pairs() -> Iterator[Pair]:
    for what, plain, ours in (filterbank(), residual_normalization()):
        yield Pair(what, *measure_pair(plain, ours, clips=BATCH, repeats=REPEATS))


def filterbank() -> Ways:
    """The mel product with a dense matrix against banded blocks."""
    logmel = LogMel(bands=512)
    power = torch.rand(BATCH, 2049, 64)
    return (
        "mel filterbank, 512 bands: dense, banded",
        lambda: logmel.filters @ power,
        lambda: torch.cat(
            [logmel.filters[rows, columns] @ power[:, columns] for rows, columns in logmel.blocks], dim=1
        ),
    )


def residual_normalization() -> Ways:
    """Forward and backward: autograd's chain of operations against one function with its analytic
    gradient."""
    x = torch.randn(BATCH, 64, 128, 16, requires_grad=True)
    norm = ResidualNormalization()

    def chain() -> None:
        variance, mean = torch.var_mean(x, dim=(1, 3), keepdim=True)
        (0.1 * x + (x - mean) / (variance + 1e-5).sqrt()).sum().backward()

    what = "residual normalization, forward and backward: chain, one function"
    return what, chain, lambda: norm(x).sum().backward()


if __name__ == "__main__":
    main()
