"""Speed of INT8 inference against float inference written plainly: pairs in one run, medians, ratios.

One clip on one thread, the INT8 forms of both students against each other, then `predict` on files of several
devices against a loop that takes one file after the other through the float network of its device. "Plain" is
a dense log-mel (torch.stft, one product with the whole filterbank) and residual normalization as its formula
stands; "ours, float" is this package's own log-mel and network as they are trained.

python benchmarks/inference.py --clips 5000    (0: without files)

ONEDNN_MAX_CPU_ISA=AVX2 makes OpenVINO and .pt2 work as on an older processor; ONNX Runtime does not read it.
"""

import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from kept import Pair, command_line, keep, show
from measure import machine, measure_pair
from onnx import ModelProto
from routers import (
    BATCH,
    BATCHES,
    DEVICES,
    RATE,
    DenseLogMel,
    float_network,
    logged_router,
    plainly_written,
    quantized_files,
    write_wavs,
)
from torch import Tensor

from adaptf.audio.logmel import BANDS, LogMel
from adaptf.compression.int8 import read_program
from adaptf.compression.onnx_form import onnx_network
from adaptf.compression.onnx_front_end import onnx_front_end, with_front_end
from adaptf.compression.quantize import quantize_int8, save_forms
from adaptf.compression.runtime import ONNX, OPENVINO, PT2, load_form, onnx_session
from adaptf.data.decode import decode
from adaptf.mlproject.predict import FILES_PER_PART, answer_missing, join
from adaptf.models.students.cp_mobile import CpMobile
from adaptf.serving.own_code import answering
from adaptf.training.memory import keep_freed_memory

CALLS = 20
"""Clips in a row that one measurement of single clips takes."""
Step = Callable[[Tensor], Tensor]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--clips", type=int, default=5000, help="one-second files that `predict` reads")
    parser.add_argument("--loop-clips", type=int, default=500, help="of these, as many go through the loop")
    parser.add_argument("--threads", type=int, default=2, help="of `predict` and the loop")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where files are written; default: the system's"
    )
    args = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        torch.set_num_threads(1)
        print(f"{machine()}; one clip of {RATE} samples at a time, medians of {args.repeats}\n")
        shown = show(one_clip(Path(name) / "one", args.repeats))
        if args.clips:
            torch.set_num_threads(args.threads)
            print(
                f"\n{machine()}; {args.clips} files of 1 s at 44.1 kHz, of {len(DEVICES)} devices; "
                "medians of 3\n"
            )
            shown += show(of_files(Path(name) / "files", args.clips, min(args.loop_clips, args.clips)))
    keep(shown, args.keep)


def one_clip(folder: Path, repeats: int) -> Iterator[Pair]:
    """Float against INT8, then the INT8 forms of both students against each other."""
    yield from of_float(folder, repeats)
    yield from of_forms(folder, repeats)


def of_float(folder: Path, repeats: int) -> Iterator[Pair]:
    """Log-mel and network apart, then waveform to probabilities."""
    (file,) = quantized_files(folder, DEVICES[:1]).values()
    network = float_network(DEVICES[0])
    log_mel, dense = LogMel(), DenseLogMel()
    waveforms = 0.1 * torch.randn(CALLS, 1, RATE)
    features = torch.stack([log_mel(waveform) for waveform in waveforms])
    floats: dict[str, tuple[Step, Step]] = {
        "plain": (dense, plainly_written(network)),
        "ours, float": (log_mel, network),
    }
    check_alike(floats["plain"], floats["ours, float"], waveforms[:, 0])

    def pair(what: str, inputs: Tensor, plain: Step, ours: Step) -> Pair:
        taken = measure_pair(each(plain, inputs), each(ours, inputs), clips=CALLS, repeats=repeats)
        return Pair(what, *taken)

    yield pair("log-mel: dense, LogMel", waveforms, dense, log_mel)
    for form in (OPENVINO, ONNX, PT2):
        int8 = load_form(file, form)
        for name, (_, float_one) in floats.items():
            yield pair(f"network: {name}, {form}", features, float_one, int8)
        for name, (float_mel, float_one) in floats.items():
            what = f"waveform to probabilities: {name}, {form}"
            yield pair(what, waveforms, probabilities(float_mel, float_one), probabilities(log_mel, int8))
    front_end, program = onnx_front_end(log_mel, RATE), read_program(file)
    yield pair("log-mel: LogMel, ONNX", waveforms, log_mel, in_onnx_runtime(front_end))
    whole = in_onnx_runtime(with_front_end(front_end, onnx_network(program)))
    ours = probabilities(log_mel, network)
    yield pair("waveform to logits: ours, float, one ONNX file", waveforms, ours, whole)


def in_onnx_runtime(model: ModelProto) -> Step:
    return onnx_session(model.SerializeToString())


def of_forms(folder: Path, repeats: int) -> Iterator[Pair]:
    """Log-mels to logits, for each student by the three forms of one file."""
    files = {"TF-SepNet-64": (folder / f"{DEVICES[0]}.pt2", BANDS), "CP-Mobile-32": cp_mobile_file(folder)}
    for student, (file, bands) in files.items():
        features = LogMel(bands=bands)(0.1 * torch.randn(CALLS, RATE))[:, None]
        steps = {form: each(load_form(file, form), features) for form in (PT2, ONNX, OPENVINO)}
        for slower, faster in ((PT2, ONNX), (ONNX, OPENVINO)):
            taken = measure_pair(steps[slower], steps[faster], clips=CALLS, repeats=repeats)
            yield Pair(f"{student}: {slower}, {faster}", *taken)


def cp_mobile_file(folder: Path) -> tuple[Path, int]:
    """With random weights, and the number of its mel bands."""
    bands, log_mel = 256, LogMel(bands=256)
    batches = [log_mel(0.1 * torch.randn(BATCH, RATE)) for _ in range(BATCHES)]
    network = CpMobile(classes=10).train()
    with torch.no_grad():
        for batch in batches:
            network(batch)
    save_forms(quantize_int8(network.eval(), batches), folder / "cp_mobile.pt2")
    return folder / "cp_mobile.pt2", bands


def each(step: Step, inputs: Tensor) -> Callable[[], None]:
    """The step on one clip after the other."""

    @torch.inference_mode()
    def run() -> None:
        for clip in inputs:
            step(clip)

    return run


def probabilities(log_mel: Step, network: Step) -> Step:
    """Waveform (batch, samples) -> (batch, scenes)"""
    return lambda waveform: network(log_mel(waveform)).softmax(dim=1)


def check_alike(one: tuple[Step, Step], other: tuple[Step, Step], waveforms: Tensor) -> None:
    """Raises RuntimeError where the two ways of writing the float model are not one model."""
    difference = (probabilities(*one)(waveforms) - probabilities(*other)(waveforms)).abs().max()
    if difference > 1e-4:
        raise RuntimeError(f"the float models' probabilities differ by {difference:.2g}")


def of_files(folder: Path, clips: int, loop_clips: int) -> Iterator[Pair]:
    """Files to rows of the predictions' table, models loaded."""
    names = write_wavs(folder / "clips", clips)
    table = pd.DataFrame({"filename": names, "device": np.random.default_rng(0).choice(DEVICES, clips)})
    parts = [table.iloc[first : first + FILES_PER_PART] for first in range(0, clips, FILES_PER_PART)]
    (folder / "bundles").mkdir()
    with (
        logged_router(folder) as uri,
        answering(uri, {}, folder / "bundles", parts=len(parts)) as (pool, who),
    ):
        runs = count()

        def predict_all() -> None:
            place = folder / f"parts{next(runs)}"
            place.mkdir()
            missing = {place / f"{number}.csv": rows for number, rows in enumerate(parts)}
            answer_missing(pool, who, missing, folder / "clips", name="predict")
            join(list(missing), place)

        for what, models in models_by_device().items():
            loop = one_by_one(models, table.iloc[:loop_clips], folder / "clips")
            loop_ms, predict_ms = measure_pair(loop, predict_all, clips=1, repeats=3)
            yield Pair(
                f"a file to its row of the table: {what} in a loop, `predict`",
                loop_ms / loop_clips,
                predict_ms / clips,
                per="file",
                least_ratio=8.0 if what == "plain" else None,
            )


def one_by_one(models: dict[str, Step], table: pd.DataFrame, folder: Path) -> Callable[[], object]:
    """Reads, resamples and classifies a file after the other."""

    @torch.inference_mode()
    def run() -> list[list[float]]:
        rows = zip(table["filename"], table["device"], strict=True)
        clips = (
            (torch.from_numpy(decode(folder / name, sample_rate=RATE))[None], device) for name, device in rows
        )
        return [models[device](waveform)[0].tolist() for waveform, device in clips]

    return run


def models_by_device() -> dict[str, dict[str, Step]]:
    """Float models, by the way they are written."""
    dense, log_mel = DenseLogMel(), LogMel()
    return {
        "plain": {device: probabilities(dense, plainly_written(float_network(device))) for device in DEVICES},
        "ours, float": {device: probabilities(log_mel, float_network(device)) for device in DEVICES},
    }


if __name__ == "__main__":
    main()
