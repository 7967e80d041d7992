"""The compiled kernels of planes.cpp, which installing adaptf builds where there is a C++ compiler."""

import ctypes
import logging
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch  # before the library, which then takes PyTorch's OpenMP, by whatever name, and its threads
from torch import Tensor

_VERSION = 1
"""Of what the kernels are given; planes.cpp has the same."""
_X86 = ("x86_64", "AMD64")
_Argument = ctypes.c_void_p | ctypes.c_int64 | ctypes.c_double
logger = logging.getLogger(__name__)


@cache
def library() -> ctypes.CDLL | None:
    """None where it was not built, or this processor or the environment does not have what it takes."""
    if platform.machine() in _X86 and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return None
    for path in _built():
        try:
            found = ctypes.CDLL(str(path))
            if found.kernels_version() == _VERSION:
                found.find_kernel.restype = ctypes.c_void_p
                return found
        except (OSError, AttributeError):  # of another system, or half a file
            pass
        logger.warning("%s is of another version of adaptf: install it again to train faster", path)
    return None


def _built() -> list[Path]:
    return sorted(Path(__file__).parent.glob("_planes*.so"))


def run(name: str, dtype: torch.dtype, *values: Tensor | float | None) -> None:
    """Calls a kernel with tensors of `dtype` (or float64, where it says double), numbers, and null for None.

    Whole numbers are its sizes, others its doubles. Clips of a tensor may lie apart; each is contiguous.
    """
    arguments = [_argument(value) for value in values]
    _kernel(name, dtype == torch.float64, tuple(type(one) for one in arguments))(*arguments)


def _argument(value: Tensor | float | None) -> _Argument:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p(None)
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_int64(value)


@cache
def _kernel(name: str, is_double: bool, types: tuple[type[_Argument], ...]) -> Callable[..., None]:
    found = library()
    assert found is not None  # `fits` was asked
    return ctypes.CFUNCTYPE(None, *types)(found.find_kernel(name.encode(), int(is_double)))
