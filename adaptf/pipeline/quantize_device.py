"""One device's model made INT8, run by a process that has nothing but the files,
and what is found about it there."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from adaptf.compression.agreement import Agreement, agreement
from adaptf.compression.complexity import Complexity, clip_complexity
from adaptf.compression.form_cost import FormCost, cost_of_openvino, cost_of_program
from adaptf.compression.fresh_process import FreshProcess, median_ms
from adaptf.compression.int8 import int8_convolutions
from adaptf.compression.quantize import save_forms, tune_int8
from adaptf.compression.runtime import (
    LARGEST_DIFFERENCE,
    OPENVINO,
    PT2,
    openvino_file,
    remove_openvino,
    why_no_openvino,
)
from adaptf.data.batch import WaveformBatch
from adaptf.data.clip_set import ClipSet
from adaptf.data.clips import TRAIN, UNKNOWN, VALIDATION
from adaptf.data.shared_objects import SharedObjects
from adaptf.evaluation.predict import predict_logits
from adaptf.evaluation.relative_loss import RelativeLoss, relative_loss
from adaptf.evaluation.scores import TEXT_COLUMNS, macro_accuracy
from adaptf.models.classifier import Classifier
from adaptf.names import stored
from adaptf.pipeline.dataset import PreparedData
from adaptf.pipeline.validation import predictions_from

CALIBRATION_BATCH = 32
_GOOD_ENOUGH = 0.06
"""Error of the logits with which the first way of taking ranges is taken; else the best of all is."""


@dataclass(frozen=True)
class OpenVinoForm:
    """How the OpenVINO form compares to the .pt2 file on the validation clips."""

    accuracy: float
    agreement: Agreement
    """With the .pt2 file."""
    cost: FormCost
    clip_ms: float


@dataclass(frozen=True)
class Quantized:
    """One device's INT8 model and what was found about it."""

    device: str
    float_accuracy: float
    int8_accuracy: float
    loss: RelativeLoss
    """On the validation clips of all devices: what quantizing changes is no matter of the device, and on a
    device's own few clips a single one would decide."""
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
    """One clip's log-mel through the float network, on one processor core; like the other times it is taken
    while other devices' models are worked on."""
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


def quantize_device(
    device: str,
    classifier: Classifier,
    fresh: FreshProcess,
    shared: SharedObjects,
    *,
    data: PreparedData,
    folder: Path,
    calibration_clips: int,
    min_validation_clips: int,
    seed: int,
) -> Quantized:
    """Leaves all forms in the folder, and judges what the fresh process makes of the files.

    Ranges are taken from `calibration_clips` of the device's training clips. Its accuracy is that on its own
    validation clips where these are `min_validation_clips` and more, else on those of all devices.
    """
    path = folder / f"{stored(device)}.pt2"
    train, clips = data.clips(TRAIN, device=None if device == UNKNOWN else device), data.clips(VALIDATION)
    calibration = calibration_rows(train, calibration_clips, seed=seed)
    with torch.no_grad():
        log_mels = [classifier.features(batch) for batch in calibration.split(CALIBRATION_BATCH)]
    judged = _JudgedClips(log_mels, classifier, clips)
    of_float = judged.logits(classifier.network)
    tuned = tune_int8(
        classifier.network,
        log_mels,
        lambda network: 1 - agreement(judged.logits(network), of_float).logit_error,
        tolerable_distance=_GOOD_ENOUGH,
        shared=shared,
        program=json.dumps(classifier.description.as_dict(), sort_keys=True),
    )
    program = save_forms(tuned, path, fresh.convert)
    of_file = judged.logits(fresh.network(path, PT2))
    every, every_float = (
        predictions_from(judged.of_validation(one).numpy(), clips, data) for one in (of_file, of_float)
    )
    shown, judged_on = shown_clips(every, device, min_validation_clips)
    shown_float, _ = shown_clips(every_float, device, min_validation_clips)
    int8, all_convolutions = int8_convolutions(program)
    return Quantized(
        device=device,
        float_accuracy=macro_accuracy(shown_float),
        int8_accuracy=macro_accuracy(shown),
        loss=relative_loss(every, every_float),
        agreement=agreement(of_file, of_float),
        int8_convolutions=int8,
        convolutions=all_convolutions,
        complexity=clip_complexity(classifier, data.waveforms.format.clip_samples),
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


def calibration_rows(clips: ClipSet, count: int, *, seed: int) -> Tensor:
    """Waveforms (clips, samples) drawn so that the scenes take turns, and within a scene the devices:
    so do their batches."""
    rows = pd.DataFrame({"scene": clips.targets.argmax(axis=1), "device": clips.devices})
    rows = rows.sample(frac=1, random_state=np.random.default_rng(seed))
    rows["turn"] = rows.groupby(["scene", "device"]).cumcount()
    rows["turn"] = rows.sort_values("turn", kind="stable").groupby("scene").cumcount()
    chosen = rows.sort_values("turn", kind="stable").index[:count].to_numpy()
    batch = clips[np.sort(chosen).tolist()]
    assert isinstance(batch, WaveformBatch)  # of the cache
    return batch.waveforms[torch.from_numpy(chosen.argsort().argsort())]


@dataclass(frozen=True)
class _JudgedClips:
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
    """Of predictions of all devices' clips those by which a device is told its accuracy,
    and what they are."""
    own = predictions[predictions["device"] == device]
    if device == UNKNOWN:
        return predictions, f"{len(predictions)} validation clips of all devices"
    if len(own) < min_clips:
        return (
            predictions,
            f"{len(predictions)} validation clips of all devices (only {len(own)} are of {device})",
        )
    return own.reset_index(drop=True), f"{len(own)} validation clips of {device}"


def openvino_form(
    path: Path, fresh: FreshProcess, judged: _JudgedClips, of_file: Tensor, shown: pd.DataFrame
) -> OpenVinoForm | None:
    """The form beside a .pt2 file, which said `of_file` of the clips;
    `shown` are predictions of those that accuracies are of.

    It is removed where it does not run here, for nobody checked it, says something else,
    or breaks the challenge's limits.
    """
    why = why_no_openvino(path)
    if not why:
        try:
            form = _measured_form(path, fresh, judged, of_file, shown)
            why = "; ".join([*form.cost.problems(), *_difference_problems(form.agreement)])
        # Whatever a library that breaks may raise: the .pt2 file needs nothing of it.
        except Exception as error:
            why = f"it does not run here: {error}"
    if why:
        remove_openvino(path)
        print(f"{path.name} gets no OpenVINO form, the .pt2 file serves: {why}", flush=True)
        return None
    return form


def _measured_form(
    path: Path, fresh: FreshProcess, judged: _JudgedClips, of_file: Tensor, shown: pd.DataFrame
) -> OpenVinoForm:
    """As the fresh process finds it."""
    logits = judged.logits(fresh.network(path, OPENVINO))
    scenes = [column for column in shown.columns if column not in TEXT_COLUMNS]
    places = judged.of_validation(logits).argmax(dim=1)
    said = pd.Series([scenes[place] for place in places], judged.validation.filenames)
    return OpenVinoForm(
        accuracy=macro_accuracy(shown.assign(predicted=shown["filename"].map(said))),
        agreement=agreement(logits, of_file),
        cost=cost_of_openvino(openvino_file(path)),
        clip_ms=fresh.clip_ms(path, OPENVINO, judged.calibration[0][:1]),
    )


def _difference_problems(found: Agreement) -> list[str]:
    """Whether a form's logits are too far from those of the .pt2 file."""
    if found.logit_error <= LARGEST_DIFFERENCE:
        return []
    return [
        f"its logits differ by {found.logit_error:.2f} of their spread, at most {LARGEST_DIFFERENCE} is "
        "allowed"
    ]
