"""INT8 networks as they are served: the OpenVINO form where it can run, else the exported program (.pt2),
by ONNX Runtime where that is installed."""

import importlib.util
import platform
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptf.compression.agreement import REFERENCE_SUFFIX, Reference, agreement, read_reference
from adaptf.compression.int8 import check_clips, clip_shape_of, load_int8, read_program
from adaptf.compression.onnx_form import onnx_network
from adaptf.errors import UserError

OPENVINO, ONNX, PT2 = "OpenVINO", "ONNX Runtime", "pt2"
_OPENVINO_SUFFIXES = (".xml", ".bin")
NETWORK_FILES = (".pt2", *_OPENVINO_SUFFIXES, REFERENCE_SUFFIX)
"""Ends of the files of a network:
the exported program, its OpenVINO form, which may be missing, and clips to try both with."""
LARGEST_DIFFERENCE = 0.1
"""Of the logits of a form that says the same, relative to their spread. Sums that lie between two steps are
rounded to either side: forms that compute the same differ by 0.01 to 0.03, INT8 from float by 0.05,
sums that overflow by far more."""
_ERRORS = 3
"""ONNX Runtime's level of severity."""
X86 = ("x86_64", "amd64")
OPENVINO_SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",  # by default float parts run in bfloat16 where the processor has it
    # on the thread that asks: the log-mel is in its cache, and nobody waits for another to wake up
    "NUM_STREAMS": 0,
    "INFERENCE_NUM_THREADS": 1,
    "ENABLE_CPU_PINNING": False,
}


class Network:
    """Log-mel (batch, 1, bands, frames) -> logits (batch, classes).
    Any number of threads may call it at a time.

    Raises ValueError for log-mels of another shape than the network was quantized with,
    and for an empty batch.
    """

    form: str
    """OpenVINO, ONNX Runtime or pt2."""
    why: str = ""
    """Why it is no faster form; empty where it is the fastest."""
    refused_difference: float | None = None
    """By how much the logits of a faster form differ on this processor,
    where it is not used for that reason."""

    def __call__(self, logmel: Tensor) -> Tensor:
        raise NotImplementedError


class ExportedNetwork(Network):
    """A .pt2 file as torch runs it."""

    form = PT2

    def __init__(self, path: Path) -> None:
        self.network = load_int8(path)

    def __call__(self, logmel: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.network(logmel)
        return logits


class OpenVinoNetwork(Network):
    """The .xml file beside a .pt2 file, with its .bin, as OpenVINO runs it:
    clip by clip, which takes as long per clip as any larger batch.

    So nothing is compiled anew for another size of batch.
    Each calling thread computes for itself, on one processor core.
    """

    form = OPENVINO

    def __init__(self, path: Path) -> None:
        self.compiled: Any = core().compile_model(openvino_file(path), "CPU", OPENVINO_SETTINGS)
        self.clip_shape = tuple(self.compiled.input(0).shape)[1:]
        self.classes = self.compiled.output(0).shape[1]
        self._of_thread = threading.local()

    def __call__(self, logmel: Tensor) -> Tensor:
        check_clips(logmel, self.clip_shape)
        request = self._request()
        clips = logmel.detach().contiguous().numpy()
        logits = torch.empty(len(clips), self.classes)
        for place in range(len(clips)):
            answer = request.infer([clips[place : place + 1]], share_inputs=True, share_outputs=True)
            logits[place] = torch.from_numpy(answer[0][0])
        return logits

    def _request(self) -> Any:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self.compiled.create_infer_request()
        return self._of_thread.request


class OnnxNetwork(Network):
    """A .pt2 file as ONNX Runtime runs it: clip by clip, each calling thread on one processor core."""

    form = ONNX

    def __init__(self, path: Path) -> None:
        program = read_program(path)
        self.clip_shape = clip_shape_of(program)
        self.run = onnx_session(onnx_network(program).SerializeToString())

    def __call__(self, logmel: Tensor) -> Tensor:
        check_clips(logmel, self.clip_shape)
        return torch.cat([self.run(clip) for clip in logmel.split(1)])


def onnx_session(model: bytes | Path) -> Callable[[Tensor], Tensor]:
    """What a model of one input and one output makes of a tensor.
    Any number of threads may call it at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda values: torch.from_numpy(session.run(None, {given.name: values.detach().numpy()})[0])


@cache
def core() -> Any:
    """One for the process, never given up.

    OpenVINO's plugin for processors gives the thread that first asks for it a signal stack in memory of its
    own. Given up by another thread it frees that memory and leaves the first thread on it,
    whose next signal then ends the process.
    """
    import openvino

    return openvino.Core()


def openvino_file(path: Path) -> Path:
    """Where the OpenVINO form of a .pt2 file lies; its weights are in the .bin file beside it."""
    return path.with_suffix(".xml")


def remove_openvino(path: Path) -> None:
    """Takes the OpenVINO form of a .pt2 file away."""
    for suffix in _OPENVINO_SUFFIXES:
        path.with_suffix(suffix).unlink(missing_ok=True)


def why_no_openvino(path: Path) -> str:
    """Why a network has to run as .pt2 here; empty where it need not."""
    if platform.machine().lower() not in X86:
        return f"the processor is not x86 but {platform.machine()}"
    if importlib.util.find_spec("openvino") is None:
        return "OpenVINO is not installed"
    missing = [file.name for file in map(path.with_suffix, _OPENVINO_SUFFIXES) if not file.is_file()]
    return f"there is no {' and no '.join(missing)} beside {path.name}" if missing else ""


def why_no_onnx() -> str:
    """Why ONNX Runtime cannot run anything here; empty where it can."""
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    return f"ONNX Runtime is not installed ({', '.join(missing)})" if missing else ""


def load_network(path: Path) -> Network:
    """The fastest form of a .pt2 file that runs here and says what the file said where it was made.

    Raises UserError where not even the file itself can be read,
    or where it says something else on this processor.
    """
    reference, whys, refused = read_reference(path), list[str](), None
    for form in (OPENVINO, ONNX):
        why = why_not(form, path)
        if not why:
            try:
                network = load_form(path, form)
                difference = _difference_from(reference, network)
            # Whatever a library that breaks may raise: the .pt2 file needs nothing of it, and says what is
            # wrong with itself.
            except Exception as error:
                why = f"{form} does not take {path.name}: {_last_line(error)}"
            else:
                if difference <= LARGEST_DIFFERENCE:
                    break
                why = f"{form} {_something_else(difference)}"
                refused = refused or difference
        whys.append(why)
    else:
        network = ExportedNetwork(path)
        difference = _difference_from(reference, network)
    network.why, network.refused_difference = "; ".join(whys), refused
    if not difference <= LARGEST_DIFFERENCE:  # nor where it is no number
        raise UserError(
            f"{path} {_something_else(difference)}, and no other form of it does better: {network.why}"
        )
    return network


def _difference_from(reference: Reference | None, network: Network) -> float:
    """Of a network's logits from those that were kept; 0 where none were.
    Raises UserError where they are of another task."""
    if reference is None:
        return 0.0
    logits = network(reference.logmel)
    if logits.shape != reference.logits.shape:
        shapes = f"{tuple(reference.logits.shape)}, its own {tuple(logits.shape)}"
        raise UserError(f"the clips beside a network are of another one: logits kept are {shapes}")
    return agreement(logits, reference.logits).logit_error


def _something_else(difference: float) -> str:
    """What is to be said of a form that is not used."""
    return (
        f"says something else on this processor than where it was made: logits of the clips kept for this "
        f"differ by {difference:.2f} of their spread, {LARGEST_DIFFERENCE} are allowed"
    )


def _last_line(error: Exception) -> str:
    """What an error of OpenVINO says behind the places of its own source, or its kind."""
    return "\n".join([type(error).__name__, str(error)]).strip().splitlines()[-1].strip()


def load_form(path: Path, form: str) -> Network:
    """One form of a .pt2 file. Raises UserError where it does not run here."""
    if form != PT2 and (why := why_not(form, path)):
        raise UserError(f"{path} has no {form} form to run: {why}")
    return {PT2: ExportedNetwork, OPENVINO: OpenVinoNetwork, ONNX: OnnxNetwork}[form](path)


def why_not(form: str, path: Path) -> str:
    """Why a form other than .pt2 cannot run here; empty where it can."""
    return why_no_openvino(path) if form == OPENVINO else why_no_onnx()
