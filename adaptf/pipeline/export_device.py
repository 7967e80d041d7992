"""Files for devices of one model, run and held against it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaptf.audio.logmel import LogMel
from adaptf.compression.agreement import agreement
from adaptf.compression.c_header import network_header
from adaptf.compression.form_cost import macs_of_onnx
from adaptf.compression.fresh_process import median_ms
from adaptf.compression.int8 import Int8Network, read_program
from adaptf.compression.onnx_form import LOG_MEL, onnx_network
from adaptf.compression.onnx_front_end import WAVEFORM, with_front_end
from adaptf.compression.runtime import onnx_session
from adaptf.files import write_atomically
from adaptf.names import stored
from adaptf.pipeline.int8_models import Int8Model

if TYPE_CHECKING:
    from onnx import ModelProto


LEAST_SAME_SCENE = 0.995


@dataclass(frozen=True)
class Exported:
    """An ONNX file and what was found about it."""

    device: str
    hears: str
    """waveform or log_mel, as its input is called."""
    file: str
    bytes: int
    macs: int
    """Multiply-accumulates of one clip."""
    ms: float
    """One clip by ONNX Runtime, on one processor core."""
    same_scene: float
    """Share of the clips on which the file says the scene that its model says."""
    logit_error: float
    """Root mean square of the differences between logits, relative to their spread."""
    largest_difference: float
    """Of any logit of any clip."""

    @property
    def says_the_same(self) -> bool:
        """Whether it may go on."""
        return self.same_scene >= LEAST_SAME_SCENE


@dataclass(frozen=True)
class CheckClips:
    """On which files are held against their models."""

    waveforms: Tensor
    """(clips, samples)"""
    log_mels: Tensor
    """(clips, 1, bands, frames)"""


def export_device(
    model: Int8Model, front_end: "ModelProto", clips: CheckClips, folder: Path
) -> list[Exported]:
    """Writes the files of a model, and runs them: with exact biases where they say other scenes without."""
    program = read_program(model.path)
    logits = Int8Network(program)(clips.log_mels)
    found = []
    for exact_biases in (False, True):
        network = onnx_network(program, exact_biases=exact_biases)
        found = list(_written(model, network, front_end, clips, logits, folder))
        if all(one.says_the_same for one in found):
            break
    return found


def _written(
    model: Int8Model,
    network: "ModelProto",
    front_end: "ModelProto",
    clips: CheckClips,
    logits: Tensor,
    folder: Path,
) -> Iterator[Exported]:
    """Files of a network, held against its `logits` (clips, scenes)."""
    name = stored(model.device)
    (folder / f"{name}.h").write_text(network_header(network, model.heard.scenes, logits[0]))
    forms = {
        WAVEFORM: (f"{name}.onnx", with_front_end(front_end, network), clips.waveforms),
        LOG_MEL: (f"{name}_{LOG_MEL}.onnx", network, clips.log_mels),
    }
    for hears, (file, onnx, inputs) in forms.items():
        _describe(onnx, model)
        write_atomically(folder / file, onnx.SerializeToString())
        run = onnx_session(folder / file)
        answers = torch.cat([run(clip) for clip in inputs.split(1)])
        found = agreement(answers, logits)
        yield Exported(
            device=model.device,
            hears=hears,
            file=file,
            bytes=(folder / file).stat().st_size,
            macs=macs_of_onnx(onnx),
            ms=median_ms(run, inputs[:1]),
            same_scene=found.same_scene,
            logit_error=found.logit_error,
            largest_difference=float((answers - logits).abs().max()),
        )


def _describe(onnx: "ModelProto", model: Int8Model) -> None:
    """What a program that has nothing but the file can read in it."""
    from onnx import helper

    sample_rate = str(LogMel(**model.heard.mel).sample_rate)
    told = {"scenes": dumps(model.heard.scenes), "sample_rate": sample_rate, "version": model.version}
    helper.set_model_props(onnx, told)


def said_of(found: Exported) -> str:
    """One line for the terminal."""
    return (
        f"{found.file}, {found.bytes:,} bytes, {found.macs:,} multiply-accumulates, {found.ms:.1f} ms a "
        f"clip, same scene on {found.same_scene:.1%}, logits differ by {found.largest_difference:.2g} at most"
    )


def figures(found: Exported, end: str = "") -> dict[str, float]:
    """By name, such as `waveform bytes/a`."""
    values = {name.replace("_", " "): value for name, value in asdict(found).items()}
    return {
        f"{found.hears} {name}{end}": float(value)
        for name, value in values.items()
        if not isinstance(value, str)
    }
