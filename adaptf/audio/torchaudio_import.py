"""torchaudio, also where its compiled extension cannot load."""

import importlib
import sys
from types import ModuleType

_EXTENSION = "torchaudio._extension"


def import_torchaudio() -> ModuleType:
    """The torchaudio module; call it before anything else (speechbrain, say) imports torchaudio.

    The packaged torchaudio is built for CUDA, and its extension fails to load beside a CPU-only torch.
    Transforms, resampling, convolution and the Kaldi features need none of it, so it is replaced by a stub,
    but only after the ordinary import failed.
    """
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError):
        _forget_half_imported_torchaudio()
        sys.modules[_EXTENSION] = _extension_stub()
        return importlib.import_module("torchaudio")


def _forget_half_imported_torchaudio() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        del sys.modules[name]


def _extension_stub() -> ModuleType:
    """The names that the rest of torchaudio reads from its extension, all saying that it is not there."""
    stub = ModuleType(_EXTENSION)
    names = {
        "_IS_TORCHAUDIO_EXT_AVAILABLE": False,
        "_IS_ALIGN_AVAILABLE": False,
        "_load_lib": lambda library: False,
        "_check_cuda_version": lambda: None,
        "fail_if_no_align": lambda function: function,
    }
    stub.__dict__.update(names)
    return stub
