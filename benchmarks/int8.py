"""What helps the accuracy of INT8: settings of the quantization side by side on the models of `finetune` runs.

python benchmarks/int8.py --prepare_run RUN --finetune_runs RUN,RUN

Judged on validation clips, as the stage `quantize` does; the choice between settings is no test of them.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from adaptf.compression import quantize
from adaptf.compression.int8 import errors_only, for_running
from adaptf.compression.quantize import CANDIDATES, Int8Graph, Ranges, quantize_int8
from adaptf.data.clips import TRAIN, UNKNOWN
from adaptf.evaluation.scores import macro_accuracy
from adaptf.mlproject.dataset import SCENES_KIND, load_prepared
from adaptf.mlproject.finetune import MODELS
from adaptf.mlproject.finetune_device import validation_clips
from adaptf.mlproject.fitting import checkpoint_of
from adaptf.mlproject.quantize import calibration_rows, predictor
from adaptf.models.checkpoint import load_classifier
from adaptf.models.tfsepnet import ConvNormRelu, TfSepBlock, TfSepNet
from adaptf.tracking import runs
from adaptf.tracking.runs import StageRun

Quantize = Callable[[TfSepNet, Tensor], Int8Graph]
"""From a network and log-mels (clips, 1, bands, frames)."""
BATCH, CLIPS, MORE_CLIPS = 32, 256, 1024


def main() -> None:
    """Prints a table: means over all models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepare_run", required=True)
    parser.add_argument("--finetune_runs", required=True)
    parser.add_argument("--settings", default="", help="names, separated by commas; all by default")
    arguments = parser.parse_args()
    runs.use_default_store()
    wanted = {name: one for name, one in SETTINGS.items() if not arguments.settings or name in arguments.settings.split(",")}
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_name="benchmark of INT8 settings") as active:
        run = StageRun(active.info.run_id, "int8", Path(folder))
        rows = [
            row
            for finetuned in arguments.finetune_runs.split(",")
            for device, run_id in json.loads(run.download(finetuned, MODELS).read_text()).items()
            for row in scores_of_model(run, arguments.prepare_run, device, run_id, wanted)
        ]
        print(table_of(rows).to_string())


def scores_of_model(
    run: StageRun, prepare_run: str, device: str, run_id: str, settings: dict[str, Quantize]
) -> list[dict[str, Any]]:
    """A row per setting."""
    data = load_prepared(run, prepare_run, kind=SCENES_KIND)
    classifier = load_classifier(checkpoint_of(run, run_id, data=data))
    own = None if device == UNKNOWN else device
    log_mels = classifier.features(calibration_rows(data.clips(TRAIN, device=own), MORE_CLIPS, seed=0))
    predictions = predictor(classifier, validation_clips(data, own, 100)[0], data)
    exact = predictions(classifier.network)
    scenes = list(data.classes)
    rows = []
    for name, method in settings.items():
        network = for_running(method(classifier.network, log_mels).graph)
        found = predictions(network)
        rows.append(
            {
                "setting": name,
                "loss": 100 * (macro_accuracy(exact) - macro_accuracy(found)),
                "same class": 100 * (exact["predicted"] == found["predicted"]).mean(),
                "logit error": float(
                    np.sqrt(((exact[scenes] - found[scenes]) ** 2).to_numpy().mean()) / exact[scenes].to_numpy().std()
                ),
            }
        )
    print(f"{device} {run_id}: " + ", ".join(f"{row['setting']} {row['logit error']:.4f}" for row in rows), flush=True)
    return rows


def table_of(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Means per setting and the worst loss; how many models lose more than 1 % is not told by the mean."""
    groups = pd.DataFrame(rows).groupby("setting", sort=False)
    table = groups.mean()
    table["worst loss"] = groups["loss"].max()
    table["models"] = groups.size()
    return table.round(4)


def with_ranges(ranges: Ranges, clips: int = CLIPS) -> Quantize:
    """As the stage does it."""
    return lambda network, log_mels: quantize_int8(network, log_mels[:clips].split(BATCH), ranges)


def with_first_convolution_in_float(network: TfSepNet, log_mels: Tensor) -> Int8Graph:
    """The stem's first convolution, of one input channel, as it was."""
    plain = quantize.configuration

    def configuration(served: nn.Module, ranges: Ranges) -> Any:
        from neural_compressor.torch.quantization import INT8StaticQuantConfig

        return plain(served, ranges).set_local("stem.0.conv", INT8StaticQuantConfig(w_dtype="fp32", act_dtype="fp32"))

    quantize.configuration = configuration
    try:
        return with_ranges(CANDIDATES[0])(network, log_mels)
    finally:
        quantize.configuration = plain


def without_bias_correction(network: TfSepNet, log_mels: Tensor) -> Int8Graph:
    """Neural Compressor's biases as they are."""
    corrected = quantize.correct_biases
    quantize.correct_biases = lambda graph, clips: None
    try:
        return with_ranges(CANDIDATES[0])(network, log_mels)
    finally:
        quantize.correct_biases = corrected


def with_equalization(network: TfSepNet, log_mels: Tensor) -> Int8Graph:
    """Channels between two convolutions get ranges more alike: one divided, the next multiplied, which a ReLU lets through.

    By the activations' extremes and the weights' (Nagel et al., 2019; Xiao et al., 2023).
    """
    copy = deepcopy(network).eval()
    pairs = [(copy.stem[0], copy.stem[1])]
    for block in copy.body:
        if isinstance(block, TfSepBlock):
            pairs += [
                (block.frequency_depthwise, block.frequency_pointwise),
                (block.time_depthwise, block.time_pointwise),
            ]
    for first, second in pairs:
        equalize(copy, first, second, log_mels[:CLIPS])
    return with_ranges(CANDIDATES[0])(copy, log_mels)


def equalize(network: TfSepNet, first: ConvNormRelu, second: ConvNormRelu, log_mels: Tensor) -> None:
    """In place."""
    seen: list[Tensor] = []
    hook = first.register_forward_hook(lambda module, inputs, output: seen.append(output.amax(dim=(0, 2, 3))))
    with torch.no_grad():
        network(log_mels)
    hook.remove()
    extreme = seen[0].clamp(min=1e-3)
    weight = second.conv.weight.data
    per_input = weight.abs().amax(dim=(2, 3))
    per_input = per_input.view(len(extreme), -1).amax(dim=1) if second.conv.groups > 1 else per_input.amax(dim=0)
    scale = (extreme / extreme.mean()).sqrt() / (per_input / per_input.mean()).clamp(min=1e-3).sqrt()
    scale = scale.clamp(0.1, 10)
    first.norm.weight.data /= scale
    first.norm.bias.data /= scale
    if second.conv.groups > 1:
        second.conv.weight.data *= scale.repeat_interleave(len(weight) // len(scale))[:, None, None, None]
    else:
        second.conv.weight.data *= scale[None, :, None, None]


SETTINGS: dict[str, Quantize] = {
    "histogram, asymmetric": with_ranges(CANDIDATES[0]),
    "moving extremes, asymmetric": with_ranges(Ranges("minmax", False)),
    "histogram, symmetric": with_ranges(Ranges("kl", True)),
    "moving extremes, symmetric": with_ranges(Ranges("minmax", True)),
    "32 clips": with_ranges(CANDIDATES[0], 32),
    "1024 clips": with_ranges(CANDIDATES[0], MORE_CLIPS),
    "first convolution in float": with_first_convolution_in_float,
    "no bias correction": without_bias_correction,
    "equalization": with_equalization,
}


if __name__ == "__main__":
    with errors_only():
        main()
