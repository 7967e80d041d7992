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

from adaptf.compression.agreement import Agreement, agreement
from adaptf.compression.complexity import Complexity, measure_complexity, over_budget
from adaptf.compression.form_cost import FormCost, cost_of_openvino, cost_of_program
from adaptf.compression.fresh_process import FreshProcess, fresh_process, median_ms
from adaptf.compression.int8 import int8_convolutions
from adaptf.compression.quantize import save_forms, tune_int8
from adaptf.compression.runtime import LARGEST_DIFFERENCE, OPENVINO, PT2, openvino_file, remove_openvino, why_no_openvino
from adaptf.data.batch import WaveformBatch
from adaptf.data.clip_set import ClipSet
from adaptf.data.clips import TRAIN, UNKNOWN, VALIDATION
from adaptf.data.parquet import write_table
from adaptf.errors import UserError
from adaptf.evaluation.bootstrap import SIGNIFICANT, paired_bootstrap
from adaptf.evaluation.predict import predict_logits
from adaptf.evaluation.scores import TEXT_COLUMNS, accuracy, macro_accuracy
from adaptf.evaluation.tables import as_markdown
from adaptf.models.classifier import Classifier
from adaptf.pipeline.artifacts import DATA_KIND, DESCRIPTION, INT8, INT8_PREDICTIONS, QUANTIZATION, SCENES_KIND
from adaptf.pipeline.config import upstream, upstream_model
from adaptf.pipeline.dataset import PreparedData, load_prepared
from adaptf.pipeline.device_models import check_clips_of, device_models
from adaptf.pipeline.refit import refits_of, what_clips_judge
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.validation import (
    ENOUGH_CLIPS,
    FINETUNED,
    QUANTIZED,
    by_own_models,
    predictions_from,
    with_validation_tables,
)
from adaptf.tracking.runs import Result, StageRun

CALIBRATION_BATCH = 32
GOOD_ENOUGH = 0.06
"""Error of the logits with which the first way of taking ranges is taken; else the best of all is."""


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
    """Highest share of the float model's macro-average accuracy, from 0 to 1, that may be lost. A model is
    refused where the validation clips of all devices show that it loses more: where that holds at the lower
    end of a 95 % interval over their places."""
    tolerable_logit_error: float = 0.15
    """Highest difference of INT8 logits from float ones on calibration and validation clips, as a share of their spread."""
    refuse: bool = True
    """Ends with an error where a model loses more, its logits differ more or it breaks the budget; false only says so."""
    min_validation_clips: int = ENOUGH_CLIPS
    """A device with fewer validation clips is told the accuracy on those of all devices."""
    seed: int = 0
    """Any whole number: starts the random numbers that choose calibration clips."""


@dataclass(frozen=True)
class OpenVinoForm:
    """How the OpenVINO form compares to the .pt2 file on the validation clips."""

    accuracy: float
    agreement: Agreement
    """With the .pt2 file."""
    cost: FormCost
    clip_ms: float


@dataclass(frozen=True)
class Loss:
    """Share of the float model's accuracy that is lost on the validation clips of all devices; below 0 where INT8 is better."""

    relative: float
    standing: float
    """The part that is no chance: the lower end of a 95 % interval over places; 0 where no loss stands."""

    def __str__(self) -> str:
        return f"a relative loss of {self.relative:.1%}, of which {self.standing:.1%} stand over places,"


@dataclass(frozen=True)
class Quantized:
    """One device's INT8 model and what was found about it."""

    device: str
    float_accuracy: float
    int8_accuracy: float
    loss: Loss
    agreement: Agreement
    """With the float model, on calibration and validation clips."""
    int8_convolutions: int
    convolutions: int
    complexity: Complexity
    cost: FormCost
    """Of the .pt2 file."""
    judged_on: str
    """The clips that both accuracies are of."""
    calibration_clips: int
    ranges: str
    """How the ranges of activations were taken."""
    trials: int
    """Ways of taking ranges that were tried."""
    float_ms: float
    """One clip's log-mel through the float network, on one processor core."""
    pt2_ms: float
    openvino: OpenVinoForm | None
    """None where it is not there or is not used."""
    predictions: pd.DataFrame = field(repr=False)
    """What the INT8 model made of the validation clips of all devices (`prediction_table`)."""
    float_predictions: pd.DataFrame = field(repr=False)
    """The same of the float model."""

    @property
    def served(self) -> FormCost:
        """Of the form that answers."""
        return self.openvino.cost if self.openvino else self.cost


def quantize(config: QuantizeConfig, run: StageRun) -> Result:
    """Raises UserError with the figures where a model may not go on, unless `refuse` is off."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    models = device_models(run, config.finetune_run, data)
    check_clips_of(models, data)
    if refits := refits_of(config.finetune_run):
        print(f"Accuracies below are of validation clips, {what_clips_judge(refits)}", flush=True)
    folder, predictions = run.folder / INT8, run.folder / INT8_PREDICTIONS
    for one in (folder, predictions):
        one.mkdir(exist_ok=True)
    found = []
    with fresh_process() as fresh:
        for device, classifier in models.items():
            found.append(quantize_device(config, data, device, classifier, folder / f"{device}.pt2", fresh))
            write_table(predictions / f"{device}.parquet", found[-1].predictions)
            print(f"{run.name} {device}: {summary_of(found[-1])}", flush=True)
    description = classifier.description.as_dict() | {"clip_samples": data.waveforms.format.clip_samples}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1))
    table = report(found)
    table.to_csv(run.folder / QUANTIZATION)
    verdict = judge(found, config)
    print(f"{run.name}: {verdict}", flush=True)
    settings = {
        FINETUNED: by_own_models({one.device: one.float_predictions for one in found}),
        QUANTIZED: by_own_models({one.device: one.predictions for one in found}),
    }
    result = Result(
        metrics={
            "best/accuracy": accuracy(settings[QUANTIZED], "mean_over_devices"),
            **{f"{column}/{device}": float(table.loc[device, column]) for device in table.index for column in METRICS},
        },
        files={INT8: folder, QUANTIZATION: run.folder / QUANTIZATION, INT8_PREDICTIONS: predictions},
        note=f"Tolerable relative loss, as far as it stands: {config.tolerable_loss:.1%}; {verdict}\n\n{as_markdown(table)}",
    )
    return with_validation_tables(result, data, settings, refits=refits)


METRICS = ("float accuracy", "INT8 accuracy", "relative loss", "logit error", "same scene")


def quantize_device(
    config: QuantizeConfig, data: PreparedData, device: str, classifier: Classifier, path: Path, fresh: FreshProcess
) -> Quantized:
    """Leaves all forms at `path`, and judges what a fresh process makes of the files."""
    train = data.clips(TRAIN, device=None if device == UNKNOWN else device)
    calibration = calibration_rows(train, config.calibration_clips, seed=config.seed)
    with torch.no_grad():
        log_mels = [classifier.features(batch) for batch in calibration.split(CALIBRATION_BATCH)]
    clips = data.clips(VALIDATION)
    judged = JudgedClips(log_mels, classifier, clips)
    of_float = judged.logits(classifier.network)
    tuned = tune_int8(
        classifier.network,
        log_mels,
        lambda network: 1 - agreement(judged.logits(network), of_float).logit_error,
        tolerable_distance=GOOD_ENOUGH,
    )
    program = save_forms(tuned, path)
    of_file = judged.logits(fresh.network(path, PT2))
    every, every_float = (predictions_from(judged.of_validation(one).numpy(), clips, data) for one in (of_file, of_float))
    shown, judged_on = shown_clips(every, device, config.min_validation_clips)
    shown_float, _ = shown_clips(every_float, device, config.min_validation_clips)
    int8, all_convolutions = int8_convolutions(program)
    return Quantized(
        device=device,
        float_accuracy=macro_accuracy(shown_float),
        int8_accuracy=macro_accuracy(shown),
        loss=loss_of(every, every_float),
        agreement=agreement(of_file, of_float),
        int8_convolutions=int8,
        convolutions=all_convolutions,
        complexity=complexity_of(classifier, data.waveforms.format.clip_samples),
        cost=cost_of_program(program),
        judged_on=judged_on,
        calibration_clips=len(calibration),
        ranges=str(tuned.ranges),
        trials=tuned.trials,
        float_ms=median_ms(classifier.network, log_mels[0][:1]),
        pt2_ms=fresh.clip_ms(path, PT2, log_mels[0][:1]),
        openvino=openvino_form(path, fresh, judged, of_file, shown),
        predictions=every,
        float_predictions=every_float,
    )


@dataclass(frozen=True)
class JudgedClips:
    """The clips by which a device's model is judged: those of calibration, and all for validation."""

    calibration: list[Tensor]
    """Log-mels (batch, 1, bands, frames)."""
    classifier: Classifier
    """Whose features the validation clips go through."""
    validation: ClipSet

    def logits(self, network: Callable[[Tensor], Tensor]) -> Tensor:
        """(calibration and validation clips, classes) of a network (log-mel -> logits)."""
        with torch.no_grad():
            of_calibration = [network(clips) for clips in self.calibration]
            features = self.classifier.features
            of_validation = predict_logits(lambda waveform: network(features(waveform)), self.validation)
        return torch.cat([*of_calibration, torch.from_numpy(of_validation)])

    def of_validation(self, logits: Tensor) -> Tensor:
        """Of all logits those of the validation clips."""
        return logits[len(logits) - len(self.validation) :]


def shown_clips(predictions: pd.DataFrame, device: str, min_clips: int) -> tuple[pd.DataFrame, str]:
    """Of predictions of all devices' clips those by which a device is told its accuracy, and what they are."""
    own = predictions[predictions["device"] == device]
    if device == UNKNOWN:
        return predictions, f"{len(predictions)} validation clips of all devices"
    if len(own) < min_clips:
        return predictions, f"{len(predictions)} validation clips of all devices (only {len(own)} are of {device})"
    return own.reset_index(drop=True), f"{len(own)} validation clips of {device}"


def loss_of(int8: pd.DataFrame, exact: pd.DataFrame) -> Loss:
    """From predictions of the same clips by both models.

    What quantizing changes is no matter of the device, and on a device's own few clips a single one would decide. Nothing
    stands where a scene has one place only, or where so few places differ that they may agree by chance.
    """
    accuracy = macro_accuracy(exact)
    if not accuracy:
        return Loss(0.0, 0.0)
    gained = paired_bootstrap([exact], [int8])
    stands = gained.high < 0 and gained.p <= SIGNIFICANT and not gained.single_location_scenes
    return Loss(-gained.mean / accuracy, -gained.high / accuracy if stands else 0.0)


def openvino_form(
    path: Path, fresh: FreshProcess, judged: JudgedClips, of_file: Tensor, shown: pd.DataFrame
) -> OpenVinoForm | None:
    """The form beside a .pt2 file, which said `of_file` of the clips; `shown` are predictions of those that accuracies are of.

    It is removed where it does not run here, for nobody checked it, says something else, or breaks the challenge's limits.
    """
    why = why_no_openvino(path)
    if not why:
        try:
            logits = judged.logits(fresh.network(path, OPENVINO))
        except RuntimeError as error:
            why = f"it does not run here: {error}"
    if not why:
        apart, cost = agreement(logits, of_file), cost_of_openvino(openvino_file(path))
        why = "; ".join([*cost.problems(), *difference_problems(apart)])
    if why:
        remove_openvino(path)
        print(f"{path.name} gets no OpenVINO form, the .pt2 file serves: {why}", flush=True)
        return None
    scenes = [column for column in shown.columns if column not in TEXT_COLUMNS]
    said = pd.Series([scenes[place] for place in judged.of_validation(logits).argmax(dim=1)], judged.validation.filenames)
    return OpenVinoForm(
        accuracy=macro_accuracy(shown.assign(predicted=shown["filename"].map(said))),
        agreement=apart,
        cost=cost,
        clip_ms=fresh.clip_ms(path, OPENVINO, judged.calibration[0][:1]),
    )


def difference_problems(found: Agreement) -> list[str]:
    """Whether a form's logits are too far from those of the .pt2 file."""
    if found.logit_error <= LARGEST_DIFFERENCE:
        return []
    return [f"its logits differ by {found.logit_error:.2f} of their spread, at most {LARGEST_DIFFERENCE} is allowed"]


def calibration_rows(clips: ClipSet, count: int, *, seed: int) -> Tensor:
    """Waveforms (clips, samples) drawn so that the scenes take turns, and within a scene the devices: so do their batches."""
    rows = pd.DataFrame({"scene": clips.targets.argmax(axis=1), "device": clips.devices})
    rows = rows.sample(frac=1, random_state=np.random.default_rng(seed))
    rows["turn"] = rows.groupby(["scene", "device"]).cumcount()
    rows["turn"] = rows.sort_values("turn", kind="stable").groupby("scene").cumcount()
    chosen = rows.sort_values("turn", kind="stable").index[:count].to_numpy()
    batch = clips[np.sort(chosen).tolist()]
    assert isinstance(batch, WaveformBatch)  # of the cache
    return batch.waveforms[torch.from_numpy(chosen.argsort().argsort())]


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
    problems = [problem for one in found for problem in problems_of(one, config)]
    if not problems:
        return "every INT8 model may go on"
    verdict = "not every INT8 model may go on:\n  " + "\n  ".join(problems)
    if config.refuse:
        raise UserError(verdict)
    return verdict


def problems_of(found: Quantized, config: QuantizeConfig) -> list[str]:
    """Why a model may not go on; empty where it may."""
    problems = [*over_budget(found.complexity), *(f"{problem} (counted in its file)" for problem in found.cost.problems())]
    if found.loss.standing > config.tolerable_loss:
        problems.append(f"{found.loss} on the validation clips of all devices, tolerable is {config.tolerable_loss:.1%}")
    if not found.agreement.logit_error <= config.tolerable_logit_error:  # nor where it is no number
        problems.append(
            f"INT8 logits differ from float ones by {found.agreement.logit_error:.2f} of their spread, "
            f"tolerable is {config.tolerable_logit_error:.2f}"
        )
    if found.int8_convolutions != found.convolutions:
        problems.append(f"{found.int8_convolutions} of {found.convolutions} convolutions are INT8")
    return [f"{found.device}: {problem}" for problem in problems]


def report(found: list[Quantized]) -> pd.DataFrame:
    """One row per device."""
    rows = [
        {
            "device": one.device,
            "float accuracy": one.float_accuracy * 100,
            "INT8 accuracy": one.int8_accuracy * 100,
            "relative loss": one.loss.relative * 100,
            "standing loss": one.loss.standing * 100,
            "logit error": one.agreement.logit_error,
            "same scene": one.agreement.same_scene * 100,
            "OpenVINO accuracy": one.openvino.accuracy * 100 if one.openvino else math.nan,
            "OpenVINO same scene": one.openvino.agreement.same_scene * 100 if one.openvino else math.nan,
            "OpenVINO logit difference": one.openvino.agreement.logit_error if one.openvino else math.nan,
            "float ms": one.float_ms,
            "pt2 ms": one.pt2_ms,
            "OpenVINO ms": one.openvino.clip_ms if one.openvino else math.nan,
            "INT8 convolutions": f"{one.int8_convolutions}/{one.convolutions}",
            "judged on": one.judged_on,
            "calibration clips": one.calibration_clips,
            "ranges": one.ranges,
            "trials": one.trials,
            "served macs": one.served.macs,
            "served bytes": one.served.model_bytes,
        }
        | asdict(one.complexity)
        for one in found
    ]
    return pd.DataFrame(rows).set_index("device")


def summary_of(found: Quantized) -> str:
    """One line for the terminal."""
    form = found.openvino
    openvino = (
        f"OpenVINO {form.accuracy:.3f}, same scene on {form.agreement.same_scene:.1%}, {form.clip_ms:.1f} ms"
        if form
        else "no OpenVINO form"
    )
    return (
        f"accuracy {found.float_accuracy:.3f} -> INT8 {found.int8_accuracy:.3f} on {found.judged_on}, "
        f"logit error {found.agreement.logit_error:.3f}, same scene on {found.agreement.same_scene:.1%}, "
        f"{found.int8_convolutions}/{found.convolutions} convolutions INT8, {found.pt2_ms:.1f} ms a clip; {openvino} "
        f"({found.ranges}, trial {found.trials}, {found.calibration_clips} clips)"
    )


QUANTIZE = Stage("quantize", run=quantize, config=QuantizeConfig, score="INT8 accuracy")


if __name__ == "__main__":
    QUANTIZE.main()
