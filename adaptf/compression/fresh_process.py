"""Saved INT8 networks run by a process that has nothing but the files:
what it finds is what everybody will find.

OpenVINO makes its form there too, so that a crash ends no stage.
"""

import io
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, closing
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils.benchmark import Timer

from adaptf.compression import openvino_form
from adaptf.compression.int8 import quantized_operators
from adaptf.compression.runtime import Network, load_form
from adaptf.data.processes import process_pool

_TIMED_SECONDS = 0.1
"""For which a clip is run again and again."""
_Answer = TypeVar("_Answer")


class FreshProcess:
    """Loads files of INT8 networks and runs them elsewhere.
    Where that crashes, another process takes its place."""

    def __init__(self) -> None:
        self._pool = process_pool(1, fresh=True)

    def network(self, path: Path, form: str) -> Callable[[Tensor], Tensor]:
        """Log-mel (batch, 1, bands, frames) -> logits (batch, classes).
        Calling it raises what loading the file raises."""
        return lambda logmel: torch.from_numpy(self._ask(_logits, path, form, logmel.numpy()))

    def convert(self, program: ExportedProgram, clip_shape: tuple[int, ...], path: Path) -> None:
        """As `openvino_form.convert`. Raises BrokenProcessPool where OpenVINO crashes."""
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        self._ask(_convert, buffer.getvalue(), clip_shape, path)

    def clip_ms(self, path: Path, form: str, logmel: Tensor) -> float:
        """Median time of one clip (1, 1, bands, frames) on one processor core, in ms."""
        return self._ask(_clip_ms, path, form, logmel.numpy())

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown()

    def _ask(self, function: Callable[..., _Answer], *arguments: object) -> _Answer:
        try:
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            self._pool = process_pool(1, fresh=True)
            raise BrokenProcessPool("its process crashed, or was ended from outside") from error


def fresh_process() -> AbstractContextManager[FreshProcess]:
    """A new process with one thread; it ends with the context, or with this process."""
    return closing(FreshProcess())


@lru_cache(maxsize=2)
def _network(path: Path, form: str) -> Network:
    torch.set_num_threads(1)
    return load_form(path, form)


def _convert(program: bytes, clip_shape: tuple[int, ...], path: Path) -> None:
    torch.set_num_threads(1)
    quantized_operators()
    openvino_form.convert(torch.export.load(io.BytesIO(program)), clip_shape, path)


def _logits(path: Path, form: str, logmel: NDArray[np.float32]) -> NDArray[np.float32]:
    return _network(path, form)(torch.from_numpy(logmel)).numpy()


def _clip_ms(path: Path, form: str, logmel: NDArray[np.float32]) -> float:
    return median_ms(_network(path, form), torch.from_numpy(logmel))


def median_ms(network: Callable[[Tensor], object], clip: Tensor) -> float:
    """Time of a network on one processor core."""
    with torch.no_grad():
        timer = Timer("network(clip)", globals={"network": network, "clip": clip}, num_threads=1)
        return 1000 * timer.blocked_autorange(min_run_time=_TIMED_SECONDS).median
