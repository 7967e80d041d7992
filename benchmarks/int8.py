"""What helps INT8 to stay near the float network:
settings of the quantization side by side on the models of `finetune` runs.

python benchmarks/int8.py --prepare_run RUN --models RUN
python benchmarks/int8.py --prepare_run RUN --models '{a: a.ckpt, unknown: u.ckpt}'

Judged on test clips of each device (`unknown`: of all), which no choice of the quantization has seen.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlflow
import pandas as pd
import torch
from torch import Tensor

from adaptf.compression import correction, quantize, weight_rounding
from adaptf.compression.agreement import agreement
from adaptf.compression.int8 import errors_only, for_running
from adaptf.compression.quantize import CANDIDATES, Ranges, quantize_int8
from adaptf.data.clips import TEST, TRAIN, UNKNOWN
from adaptf.evaluation.predict import predict_logits
from adaptf.mlproject.quantize import QuantizeConfig
from adaptf.models.classifier import Classifier
from adaptf.models.students.tfsepnet import served
from adaptf.pipeline.artifacts import SCENES_KIND
from adaptf.pipeline.dataset import PreparedData, load_prepared
from adaptf.pipeline.device_models import device_models
from adaptf.pipeline.quantize_device import CALIBRATION_BATCH, calibration_rows
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.store import open_store

CLIPS = QuantizeConfig().calibration_clips
Setting = tuple[Ranges, int, Sequence[tuple[Any, str, Any]]]
"""How ranges are taken, of how many clips, and what is put in the place of what: module, name, value."""


def main() -> None:
    """Prints a row per model and setting, then means over the models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prepare_run", required=True)
    parser.add_argument("--models", required=True, help="run of `finetune`, or checkpoint files by device")
    parser.add_argument(
        "--settings", nargs="*", choices=list(SETTINGS), default=list(SETTINGS), help="all by default"
    )
    parser.add_argument("--clips", type=int, default=600, help="test clips of a device, at most")
    args = parser.parse_args()
    open_store()
    wanted = {name: one for name, one in SETTINGS.items() if name in args.settings}
    with (
        tempfile.TemporaryDirectory() as folder,
        mlflow.start_run(run_name="benchmark of INT8 settings") as active,
    ):
        run = StageRun(active.info.run_id, "int8", Path(folder))
        data = load_prepared(run, args.prepare_run, kind=SCENES_KIND)
        rows = []
        for device, classifier in device_models(run, args.models, data).items():
            rows += rows_of_model(data, device, classifier, wanted, args.clips)
        print(
            "\n",
            pd.DataFrame(rows).groupby("setting", sort=False)[["logit error", "same scene"]].mean().round(4),
        )


def rows_of_model(
    data: PreparedData, device: str, classifier: Classifier, settings: dict[str, Setting], clips: int
) -> list[dict[str, Any]]:
    """A row per setting."""
    own = None if device == UNKNOWN else device
    most = max(count for _, count, _ in settings.values())
    with torch.no_grad():
        log_mels = classifier.features(calibration_rows(data.clips(TRAIN, device=own), most, seed=0))
    test = data.table[(data.table["split"] == TEST) & ((data.table["device"] == own) | (own is None))]
    heard = data.clip_set(test.sample(min(clips, len(test)), random_state=0), TEST)

    def logits(network: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.from_numpy(
            predict_logits(lambda waveform: network(classifier.features(waveform)), heard)
        )

    exact, rows = logits(classifier.network), []
    for name, (ranges, count, changes) in settings.items():
        with ExitStack() as stack:
            for module, attribute, value in changes:
                stack.enter_context(patch.object(module, attribute, value))
            graph = quantize_int8(classifier.network, log_mels[:count].split(CALIBRATION_BATCH), ranges).graph
        found = agreement(logits(for_running(graph)), exact)
        rows.append({"setting": name, "logit error": found.logit_error, "same scene": 100 * found.same_scene})
        print(
            f"{device}, {name}: {found.logit_error:.4f}, {found.same_scene:.1%} of {len(heard)} clips",
            flush=True,
        )
    return rows


def nearest(weight: Tensor, steps: Tensor, moments: Tensor) -> Tensor:
    """Each weight rounded for itself."""
    size = steps.view(-1, *[1] * (weight.ndim - 1))
    return (weight / size).round() * size


def biases_as_they_are(graph: Any, logmel: Tensor) -> None:
    """Weights are corrected, biases are not."""
    kept = correction.channel_means
    with patch.object(correction, "channel_means", lambda x: 0 * kept(x)):
        correction.correct(graph, logmel)


class Nowhere:
    """Of which nothing is an instance: no normalization is moved."""


PLAIN = CANDIDATES[0]
SETTINGS: dict[str, Setting] = {
    "as it is": (PLAIN, CLIPS, ()),
    "moving extremes, asymmetric": (Ranges("minmax", False), CLIPS, ()),
    "histogram, symmetric": (Ranges("kl", True), CLIPS, ()),
    "moving extremes, symmetric": (Ranges("minmax", True), CLIPS, ()),
    "32 clips": (PLAIN, 32, ()),
    "1024 clips": (PLAIN, 1024, ()),
    "eight bits": (PLAIN, CLIPS, [(weight_rounding, "LARGEST_STEP", 127)]),
    "nearest weights": (PLAIN, CLIPS, [(correction, "rounded_weight", nearest)]),
    "biases as they are": (PLAIN, CLIPS, [(quantize, "correct", biases_as_they_are)]),
    "normalization before the convolution": (PLAIN, CLIPS, [(served, "ResidualNormalization", Nowhere)]),
    "stem as it is": (PLAIN, CLIPS, [(served, "equalize_stem", lambda network, log_mels: None)]),
}


if __name__ == "__main__":
    with errors_only():
        main()
