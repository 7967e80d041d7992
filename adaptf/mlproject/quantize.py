"""Stage `quantize`: an INT8 model for each device, saved, loaded again by a fresh process and judged before it may go on."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from adaptf.compression.complexity import Complexity, measure_complexity, over_budget
from adaptf.compression.fresh_process import FreshProcess, fresh_process, median_ms
from adaptf.compression.int8 import int8_convolutions
from adaptf.compression.quantize import save_forms, tune_int8
from adaptf.compression.runtime import OPENVINO, PT2, remove_openvino, why_no_openvino
from adaptf.data.clip_set import ClipSet
from adaptf.data.clips import TRAIN, UNKNOWN
from adaptf.errors import UserError
from adaptf.evaluation.predict import predict_logits
from adaptf.evaluation.scores import TEXT_COLUMNS, macro_accuracy
from adaptf.evaluation.tables import as_markdown
from adaptf.mlproject.config import upstream, upstream_model
from adaptf.mlproject.dataset import DATA_KIND, SCENES_KIND, PreparedData, load_prepared
from adaptf.mlproject.device_models import check_clips_of, device_models
from adaptf.mlproject.finetune_device import validation_clips
from adaptf.mlproject.stage import run_stage
from adaptf.mlproject.validation_page import FINETUNED, QUANTIZED, by_own_models, predictions_from, with_validation_tables
from adaptf.models.classifier import Classifier
from adaptf.tracking.runs import Result, StageRun

INT8 = "int8"
REPORT = "quantization.csv"
VALIDATION_PREDICTIONS = "validation"
"""Artifact folder: by device what the INT8 model made of the clips that it was judged on."""
DESCRIPTION = "description.json"
CALIBRATION_BATCH = 32


@dataclass(frozen=True)
class QuantizeConfig:
    """Quantizes every device's model to INT8 with Intel Neural Compressor."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    finetune_run: str = upstream_model("finetune", files="per device")
    """Run of `finetune` that holds the devices' models; or checkpoint files: a folder of <device>.ckpt, a mapping such as
    '{a: a.ckpt, unknown: u.ckpt}', or one file for all devices."""
    calibration_clips: int = 256
    """Training clips of the device, spread over the scenes, from which the ranges of activations are taken; for `unknown`
    spread over the devices too."""
    tolerable_loss: float = 0.01
    """Highest relative loss of macro-average accuracy on the validation clips."""
    refuse: bool = True
    """Ends with an error where a model loses more, is not INT8 throughout or breaks the budget; false only says so."""
    same_class_share: float = 0.995
    """Share of the validation clips, or all but one of them, on which the OpenVINO form must say the same scene as the .pt2
    file; else the .pt2 file serves."""
    min_validation_clips: int = 100
    """A device with fewer validation clips is judged on those of all devices."""
    seed: int = 0
    """Of the choice of calibration clips."""


@dataclass(frozen=True)
class OpenVinoForm:
    """How the OpenVINO form compares to the .pt2 file on the validation clips."""

    accuracy: float
    clips: int
    other_scenes: int
    """Clips on which the two say different scenes."""
    largest_difference: float
    """Of any logit."""
    clip_ms: float

    @property
    def same_class_share(self) -> float:
        """Of the clips."""
        return 1 - self.other_scenes / self.clips

    def agrees(self, share: float) -> bool:
        """Whether it says the same scene on that share of the clips, or on all but one."""
        return self.other_scenes <= max(1, math.floor((1 - share) * self.clips))


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
    ranges: str
    """How the ranges of activations were taken."""
    trials: int
    """Ways of taking ranges that were tried."""
    float_ms: float
    """One clip's log-mel through the float network, on one processor core."""
    pt2_ms: float
    openvino: OpenVinoForm | None
    """None where it is not there or does not agree."""
    predictions: pd.DataFrame = field(repr=False)
    """What the INT8 model made of the clips that it was judged on (`prediction_table`)."""
    float_predictions: pd.DataFrame = field(repr=False)
    """The same of the float model."""

    @property
    def relative_loss(self) -> float:
        """Share of the float model's accuracy that is lost; negative where the INT8 model is better."""
        return (self.float_accuracy - self.int8_accuracy) / self.float_accuracy if self.float_accuracy else 0.0


def quantize(config: QuantizeConfig, run: StageRun) -> Result:
    """Raises UserError with the figures where a model may not go on, unless `refuse` is off."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    models = device_models(run, config.finetune_run, data)
    check_clips_of(models, data)
    folder, predictions = run.folder / INT8, run.folder / VALIDATION_PREDICTIONS
    for one in (folder, predictions):
        one.mkdir(exist_ok=True)
    found = []
    with fresh_process() as fresh:
        for device, classifier in models.items():
            found.append(quantize_device(config, data, device, classifier, folder / f"{device}.pt2", fresh))
            found[-1].predictions.to_csv(predictions / f"{device}.csv", index=False, float_format="%.9g")
            print(f"{run.name} {device}: {summary_of(found[-1])}", flush=True)
    description = classifier.description.as_dict() | {"clip_samples": data.waveforms.format.clip_samples}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1))
    table = report(found)
    table.to_csv(run.folder / REPORT)
    verdict = judge(found, config)
    print(f"{run.name}: {verdict}", flush=True)
    settings = {
        FINETUNED: by_own_models({one.device: one.float_predictions for one in found}),
        QUANTIZED: by_own_models({one.device: one.predictions for one in found}),
    }
    result = Result(
        metrics={
            "best/accuracy": macro_accuracy(settings[QUANTIZED]),
            **{f"{column}/{device}": float(table.loc[device, column]) for device in table.index for column in METRICS},
        },
        files={INT8: folder, REPORT: run.folder / REPORT, VALIDATION_PREDICTIONS: predictions},
        note=f"Tolerable relative loss: {config.tolerable_loss:.1%}; {verdict}\n\n{as_markdown(table)}",
    )
    return with_validation_tables(result, data, settings)


METRICS = ("float accuracy", "INT8 accuracy", "relative loss")


def quantize_device(
    config: QuantizeConfig, data: PreparedData, device: str, classifier: Classifier, path: Path, fresh: FreshProcess
) -> Quantized:
    """Leaves both forms at `path`, and judges what a fresh process makes of the files."""
    train = data.clips(TRAIN, device=None if device == UNKNOWN else device)
    calibration = calibration_rows(train, config.calibration_clips, seed=config.seed)
    validation, judged_on = validation_clips(data, None if device == UNKNOWN else device, config.min_validation_clips)
    predictions = predictor(classifier, validation, data)
    with torch.no_grad():
        log_mels = [classifier.features(batch) for batch in calibration.split(CALIBRATION_BATCH)]
    tuned = tune_int8(
        classifier.network,
        log_mels,
        lambda network: macro_accuracy(predictions(network)),
        tolerable_loss=config.tolerable_loss,
    )
    int8, all_convolutions = int8_convolutions(save_forms(tuned, path))
    of_file, of_float = predictions(fresh.network(path, PT2)), predictions(classifier.network)
    return Quantized(
        device=device,
        float_accuracy=macro_accuracy(of_float),
        int8_accuracy=macro_accuracy(of_file),
        int8_convolutions=int8,
        convolutions=all_convolutions,
        complexity=complexity_of(classifier, data.waveforms.format.clip_samples),
        judged_on=judged_on,
        calibration_clips=len(calibration),
        ranges=str(tuned.ranges),
        trials=tuned.trials,
        float_ms=median_ms(classifier.network, log_mels[0][:1]),
        pt2_ms=fresh.clip_ms(path, PT2, log_mels[0][:1]),
        openvino=openvino_form(config, path, fresh, predictions, of_file, log_mels[0][:1]),
        predictions=of_file,
        float_predictions=of_float,
    )


Predict = Callable[[Callable[[Tensor], Tensor]], pd.DataFrame]


def predictor(classifier: Classifier, clips: ClipSet, data: PreparedData) -> Predict:
    """What a network (log-mel -> logits) makes of the clips, behind the classifier's features."""

    def predictions(network: Callable[[Tensor], Tensor]) -> pd.DataFrame:
        logits = predict_logits(lambda waveform: network(classifier.features(waveform)), clips)
        return predictions_from(logits, clips, data)

    return predictions


def openvino_form(
    config: QuantizeConfig, path: Path, fresh: FreshProcess, predictions: Predict, of_file: pd.DataFrame, clip: Tensor
) -> OpenVinoForm | None:
    """The form beside a .pt2 file; where it does not run here or does not agree with that, it is removed: nobody checked it."""
    why = why_no_openvino(path)
    if not why:
        try:
            fast = predictions(fresh.network(path, OPENVINO))
        except RuntimeError as error:
            why = str(error)
    if why:
        remove_openvino(path)
        print(f"{path.name} has no OpenVINO form that runs here ({why}): the .pt2 file serves", flush=True)
        return None
    scenes = [column for column in fast.columns if column not in TEXT_COLUMNS]
    form = OpenVinoForm(
        accuracy=macro_accuracy(fast),
        clips=len(fast),
        other_scenes=int((fast["predicted"] != of_file["predicted"]).sum()),
        largest_difference=float((fast[scenes] - of_file[scenes]).abs().to_numpy().max()),
        clip_ms=fresh.clip_ms(path, OPENVINO, clip),
    )
    if form.agrees(config.same_class_share):
        return form
    remove_openvino(path)
    print(
        f"{path.name}: the OpenVINO form says another scene on {form.other_scenes} of {form.clips} clips, it is removed",
        flush=True,
    )
    return None


def calibration_rows(clips: ClipSet, count: int, *, seed: int) -> Tensor:
    """Waveforms (clips, samples) drawn so that the scenes take turns, and within a scene the devices: so do their batches."""
    rows = pd.DataFrame({"scene": clips.targets.argmax(axis=1), "device": clips.devices})
    rows = rows.sample(frac=1, random_state=np.random.default_rng(seed))
    rows["turn"] = rows.groupby(["scene", "device"]).cumcount()
    rows["turn"] = rows.sort_values("turn", kind="stable").groupby("scene").cumcount()
    chosen = rows.sort_values("turn", kind="stable").index[:count].to_numpy()
    return clips[np.sort(chosen).tolist()].x[torch.from_numpy(chosen.argsort().argsort())]


def complexity_of(classifier: Classifier, clip_samples: int) -> Complexity:
    """Of the network on one clip's log-mel. Raises UserError where that has more frames than the clip has hops."""
    features: Any = classifier.features
    with torch.no_grad():
        _, _, bands, frames = features(torch.zeros(1, clip_samples)).shape
    hop_samples = features.hop_samples
    if frames != math.ceil(clip_samples / hop_samples):
        raise UserError(
            f"the log-mel of a clip of {clip_samples:,} samples has {frames} frames of {hop_samples} samples, "
            f"{math.ceil(clip_samples / hop_samples)} are right: each one more costs operations that the limit does not allow"
        )
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
            "OpenVINO accuracy": one.openvino.accuracy * 100 if one.openvino else math.nan,
            "OpenVINO same class": one.openvino.same_class_share * 100 if one.openvino else math.nan,
            "OpenVINO largest difference": one.openvino.largest_difference if one.openvino else math.nan,
            "float ms": one.float_ms,
            "pt2 ms": one.pt2_ms,
            "OpenVINO ms": one.openvino.clip_ms if one.openvino else math.nan,
            "INT8 convolutions": f"{one.int8_convolutions}/{one.convolutions}",
            "judged on": one.judged_on,
            "calibration clips": one.calibration_clips,
            "ranges": one.ranges,
            "trials": one.trials,
        }
        | asdict(one.complexity)
        for one in found
    ]
    return pd.DataFrame(rows).set_index("device")


def summary_of(found: Quantized) -> str:
    """One line for the terminal."""
    form = found.openvino
    openvino = (
        f"OpenVINO {form.accuracy:.3f}, same scene on {form.same_class_share:.1%}, {form.clip_ms:.1f} ms"
        if form
        else "no OpenVINO form"
    )
    return (
        f"accuracy {found.float_accuracy:.3f} -> INT8 {found.int8_accuracy:.3f} on {found.judged_on}, "
        f"{found.int8_convolutions}/{found.convolutions} convolutions INT8, {found.pt2_ms:.1f} ms a clip; {openvino} "
        f"({found.ranges}, trial {found.trials}, {found.calibration_clips} clips)"
    )


def read_report(run: StageRun, quantized: str) -> pd.DataFrame:
    """The table of another run of `quantize`, a row per device."""
    return pd.read_csv(run.download(quantized, REPORT), dtype={"device": str}).set_index("device")


if __name__ == "__main__":
    run_stage(quantize, QuantizeConfig)
