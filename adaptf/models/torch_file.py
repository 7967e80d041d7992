"""Files of torch.save, read without running code that they name: tensors and plain values alone."""

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

_ZIP_MAGIC, _PICKLE_MAGIC = b"PK\x03\x04", b"\x80"
"""What a file of torch.save begins with, since PyTorch 1.6 and before."""


class UnreadableFile(ValueError):
    """What is wrong with a file, in words that call it `it`."""


class NamesCode(UnreadableFile):
    """The file is whole, and reading it would need code that it names."""


class _StandIn:
    """Takes the place of every class and function that a file names beside tensors, and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read_torch_file(path: Path, *, stand_ins: bool = False) -> Any:
    """Tensors and plain values. Raises UnreadableFile, and NamesCode where the file names code.

    With `stand_ins`, what trainers keep beside them, such as pickled settings, comes as `_StandIn`s.
    PyTorch's reader with `weights_only` does the reading all the same: it calls what PyTorch itself allows,
    which makes tensors, and _StandIn, and looks up nothing by the names in the file. What _StandIn can't take
    the place of is refused.
    """
    _check_whole(path)
    try:
        named = get_unsafe_globals_in_checkpoint(path) if stand_ins and zipfile.is_zipfile(path) else []
        with safe_globals([(_StandIn, name) for name in named]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # PyTorch's own message, which would follow in a chain, advises to read the file without the check.
        raise NamesCode(_refusal(str(error))) from None
    except Exception as error:  # damaged bytes can break the reader anywhere
        raise UnreadableFile(f"it is cut off or damaged ({brief(error)})") from error


def check_finite(weights: Mapping[str, Any]) -> None:
    """Raises UnreadableFile where tensors hold other numbers than finite ones."""
    fractions = {
        name: tensor
        for name, tensor in weights.items()
        if isinstance(tensor, Tensor) and tensor.is_floating_point()
    }
    if wrong := [name for name, tensor in fractions.items() if not tensor.isfinite().all()]:
        raise UnreadableFile(
            f"{len(wrong)} of its {len(weights)} tensors, such as {wrong[0]}, hold numbers that are not "
            f"finite: the training that left them has diverged"
        )


def _check_whole(path: Path) -> None:
    """Raises UnreadableFile for what torch.save did not write, and for changed bytes, which PyTorch takes."""
    start = read_start(path)
    if not start.startswith((_ZIP_MAGIC, _PICKLE_MAGIC)):
        raise UnreadableFile(f"it was not written by torch.save (it begins with {start!r})")
    if start.startswith(_ZIP_MAGIC):
        compare_checksums(path)


def read_start(path: Path) -> bytes:
    """The first bytes. Raises UnreadableFile for a folder, for nothing, and for what may not be read."""
    if not os.path.isfile(path):
        raise UnreadableFile("it is a folder" if os.path.isdir(path) else "there is no such file")
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise UnreadableFile(f"it can't be read ({error.strerror})") from error


def compare_checksums(path: Path) -> None:
    """Raises UnreadableFile where a zip archive is not as it was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        raise UnreadableFile(f"it is cut off or damaged ({brief(error)})") from error
    if damaged is not None:
        raise UnreadableFile(f"it is cut off or damaged (bad checksum of {damaged})")


def _refusal(message: str) -> str:
    """Of an error of PyTorch's reader: what it met, without its advice to read the file unchecked."""
    named = re.search(r"GLOBAL (\S+)", message)
    what = f"names code ({named[1]})" if named else "holds more than tensors and plain values, or is damaged"
    return (
        f"PyTorch refuses to read it, because it {what}, and reading it could run code; nothing in it was run"
    )


def brief(error: Exception, limit: int = 300) -> str:
    """An error on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:limit]}{'...' if len(text) > limit else ''}"
