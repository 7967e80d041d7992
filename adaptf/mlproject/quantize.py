"""Stage `quantize`: an INT8 model for each device, saved, loaded again and judged before it may go on."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from adaptf.compression.complexity import Complexity, measure_complexity, over_budget
from adaptf.compression.int8 import int8_convolutions, load_int8, save_int8
from adaptf.compression.quantize import quantize_int8
from adaptf.data.clip_set import ClipSet
from adaptf.data.clips import TRAIN, UNKNOWN
from adaptf.errors import UserError
from adaptf.evaluation.tables import as_markdown
from adaptf.mlproject.config import upstream
from adaptf.mlproject.dataset import DATA_KIND, SCENES_KIND, PreparedData, load_prepared
from adaptf.mlproject.finetune import MODELS
from adaptf.mlproject.finetune_device import validation_clips, validation_score
from adaptf.mlproject.fitting import checkpoint_of, tfsepnet_description
from adaptf.mlproject.stage import run_stage
from adaptf.models.checkpoint import load_classifier
from adaptf.models.classifier import Classifier
from adaptf.tracking.runs import Result, StageRun

INT8 = "int8"
REPORT = "quantization.csv"
DESCRIPTION = "description.json"
CALIBRATION_BATCH = 32


@dataclass(frozen=True)
class QuantizeConfig:
    """Quantizes every device's model to INT8 with Intel Neural Compressor."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    finetune_run: str = upstream("finetune")
    """Run of `finetune` that holds the devices' models."""
    calibration_clips: int = 256
    """Training clips of the device, spread over the scenes, from which the ranges of activations are taken."""
    tolerable_loss: float = 0.01
    """Highest relative loss of macro-average accuracy on the validation clips."""
    refuse: bool = True
    """Ends with an error where a model loses more, is not INT8 throughout or breaks the budget; false only says so."""
    trials: int = 3
    """Calibrations that are tried until one is within the tolerance, each with half the clips of the one before."""
    min_validation_clips: int = 100
    """A device with fewer validation clips is judged on those of all devices."""
    seed: int = 0
    """Of the choice of calibration clips."""


@dataclass(frozen=True)
class Quantized:
    """One device's INT8 model and what was found about it."""

    device: str
    float_accuracy: float
    int8_accuracy: float
    int8_convolutions: int
    convolutions: int
    complexity: Complexity
    judged_on: str
    calibration_clips: int

    @property
    def relative_loss(self) -> float:
        """Share of the float model's accuracy that is lost; negative where the INT8 model is better."""
        return (self.float_accuracy - self.int8_accuracy) / self.float_accuracy if self.float_accuracy else 0.0


def quantize(config: QuantizeConfig, run: StageRun) -> Result:
    """Raises UserError with the figures where a model may not go on, unless `refuse` is off."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    models: dict[str, str] = json.loads(run.download(config.finetune_run, MODELS).read_text())
    folder = run.folder / INT8
    folder.mkdir(exist_ok=True)
    found = []
    for device, run_id in models.items():
        public = tfsepnet_description(data.classes)
        classifier = load_classifier(checkpoint_of(run, run_id, data=data), public_description=public)
        found.append(quantize_device(config, data, device, classifier, folder / f"{device}.pt2"))
        print(f"{run.name} {device}: {summary_of(found[-1])}", flush=True)
    description = classifier.description.as_dict() | {"clip_samples": data.waveforms.format.clip_samples}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1))
    table = report(found)
    table.to_csv(run.folder / REPORT)
    verdict = judge(found, config)
    print(f"{run.name}: {verdict}", flush=True)
    return Result(
        metrics={f"{column}/{device}": float(table.loc[device, column]) for device in table.index for column in METRICS},
        files={INT8: folder, REPORT: run.folder / REPORT},
        note=f"Tolerable relative loss: {config.tolerable_loss:.1%}; {verdict}\n\n{as_markdown(table)}",
    )


METRICS = ("float accuracy", "INT8 accuracy", "relative loss")


def quantize_device(config: QuantizeConfig, data: PreparedData, device: str, classifier: Classifier, path: Path) -> Quantized:
    """The first calibration within the tolerance, or the best where none is; its program is left at `path`."""
    train = data.clips(TRAIN, device=None if device == UNKNOWN else device)
    clips = min(config.calibration_clips, len(train))
    attempt = path.parent.with_name("attempt.pt2")  # apart: whatever lies in the folder of `path` goes on
    best: Quantized | None = None
    for trial in range(config.trials):
        calibration = calibration_rows(train, max(1, clips >> trial), seed=config.seed)
        found = quantize_once(config, data, device, classifier, attempt, calibration)
        if best is None or found.relative_loss < best.relative_loss:
            best = found
            attempt.replace(path)
        if best.relative_loss <= config.tolerable_loss:
            break
    if best is None:
        raise UserError(f"quantize.trials is {config.trials}, at least 1 is needed")
    return best


def quantize_once(
    config: QuantizeConfig, data: PreparedData, device: str, classifier: Classifier, path: Path, calibration: Tensor
) -> Quantized:
    """Quantizes with these waveforms (clips, samples), saves, loads again, and judges what was loaded."""
    with torch.no_grad():
        batches = [classifier.features(batch) for batch in calibration.split(CALIBRATION_BATCH)]
    program = quantize_int8(classifier.network, batches)
    save_int8(program, path)
    only = None if device == UNKNOWN else device
    validation, judged_on = validation_clips(data, only, config.min_validation_clips)
    quantized = Classifier(classifier.description, classifier.features, load_int8(path))
    int8, all_convolutions = int8_convolutions(program)
    return Quantized(
        device=device,
        float_accuracy=validation_score(classifier, validation, data, "cpu"),
        int8_accuracy=validation_score(quantized, validation, data, "cpu"),
        int8_convolutions=int8,
        convolutions=all_convolutions,
        complexity=complexity_of(classifier, data.waveforms.format.clip_samples),
        judged_on=judged_on,
        calibration_clips=len(calibration),
    )


def calibration_rows(clips: ClipSet, count: int, *, seed: int) -> Tensor:
    """Waveforms (clips, samples) drawn so that the scenes take turns."""
    generator = np.random.default_rng(seed)
    scenes = clips.targets.argmax(axis=1)
    order = generator.permutation(len(clips))
    turn = pd.Series(scenes[order]).groupby(scenes[order]).cumcount().to_numpy()
    chosen = order[np.argsort(turn, kind="stable")][:count]
    return clips[np.sort(chosen).tolist()].x


def complexity_of(classifier: Classifier, clip_samples: int) -> Complexity:
    """Of the network on one clip's log-mel."""
    with torch.no_grad():
        _, _, bands, frames = classifier.features(torch.zeros(1, clip_samples)).shape
    return measure_complexity(classifier.network, bands=bands, frames=frames)


def judge(found: list[Quantized], config: QuantizeConfig) -> str:
    """What is to be said of all models. Raises UserError where one may not go on and `refuse` is on."""
    problems = [problem for one in found for problem in problems_of(one, config.tolerable_loss)]
    if not problems:
        return "every INT8 model may go on"
    verdict = "not every INT8 model may go on:\n  " + "\n  ".join(problems)
    if config.refuse:
        raise UserError(verdict)
    return verdict


def problems_of(found: Quantized, tolerable_loss: float) -> list[str]:
    """Why a model may not go on; empty where it may."""
    problems = [f"{found.device}: {problem}" for problem in over_budget(found.complexity)]
    if found.relative_loss > tolerable_loss:
        problems.append(
            f"{found.device}: accuracy falls from {found.float_accuracy:.3f} to {found.int8_accuracy:.3f} "
            f"on {found.judged_on}, a relative loss of {found.relative_loss:.1%}, tolerable is {tolerable_loss:.1%}"
        )
    if found.int8_convolutions != found.convolutions:
        problems.append(f"{found.device}: {found.int8_convolutions} of {found.convolutions} convolutions are INT8")
    return problems


def report(found: list[Quantized]) -> pd.DataFrame:
    """One row per device."""
    rows = [
        {
            "device": one.device,
            "float accuracy": one.float_accuracy * 100,
            "INT8 accuracy": one.int8_accuracy * 100,
            "relative loss": one.relative_loss * 100,
            "INT8 convolutions": f"{one.int8_convolutions}/{one.convolutions}",
            "judged on": one.judged_on,
            "calibration clips": one.calibration_clips,
        }
        | asdict(one.complexity)
        for one in found
    ]
    return pd.DataFrame(rows).set_index("device")


def summary_of(found: Quantized) -> str:
    """One line for the terminal."""
    return (
        f"accuracy {found.float_accuracy:.3f} -> INT8 {found.int8_accuracy:.3f} on {found.judged_on}, "
        f"{found.int8_convolutions}/{found.convolutions} convolutions INT8, calibrated on {found.calibration_clips} clips"
    )


if __name__ == "__main__":
    run_stage(quantize, QuantizeConfig)
