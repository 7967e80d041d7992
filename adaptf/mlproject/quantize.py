"""Stage `quantize`: an INT8 model for each device, saved,
loaded again by a fresh process and judged before it may go on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from adaptf.compression.complexity import over_budget
from adaptf.data.parquet import write_table
from adaptf.errors import UserError
from adaptf.evaluation.scores import accuracy
from adaptf.evaluation.tables import as_markdown
from adaptf.models.classifier import Classifier
from adaptf.names import stored
from adaptf.pipeline.artifacts import (
    BEST_ACCURACY,
    DATA_KIND,
    DESCRIPTION,
    INT8,
    INT8_ACCURACY,
    QUANTIZATION,
    SCENES_KIND,
    VALIDATION_PREDICTIONS,
)
from adaptf.pipeline.config import upstream, upstream_model
from adaptf.pipeline.dataset import PreparedData, load_prepared
from adaptf.pipeline.device_models import check_clips_of, device_models
from adaptf.pipeline.quantize_device import Quantized, quantize_device
from adaptf.pipeline.quantize_devices import quantize_devices
from adaptf.pipeline.ranges import COUNT, NOT_NEGATIVE, SHARE, within
from adaptf.pipeline.refit import refits_of, what_clips_judge
from adaptf.pipeline.several import OVER_FOLDS
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.validation import (
    ENOUGH_CLIPS,
    FINETUNED,
    QUANTIZED,
    by_own_models,
    with_validation_tables,
)
from adaptf.reports.quantization_table import quantization_line, quantization_table
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun

_METRICS = ("float accuracy", INT8_ACCURACY, "relative loss", "logit error", "same scene")
"""Columns of the table that become metrics, one per device."""


@dataclass(frozen=True)
class QuantizeConfig:
    """Quantizes every device's model to INT8 with Intel Neural Compressor."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    finetune_run: str = upstream_model("finetune", files="per device")
    """Run of `finetune` that holds the devices' models; or checkpoint files: a folder of <device>.ckpt, a
    mapping such as '{a: a.ckpt, unknown: u.ckpt}', or one file for all devices."""
    calibration_clips: int = within(COUNT, 256)
    """Training clips of the device, spread over the scenes, from which the ranges of activations are taken;
    for `unknown` spread over the devices too."""
    tolerable_loss: float = within(SHARE, 0.01)
    """Highest share of the float model's macro-average accuracy, from 0 to 1, that may be lost. A model is
    refused where the validation clips of all devices show that it loses more: where that holds at the lower
    end of a 95 % interval over their places."""
    tolerable_logit_error: float = within(NOT_NEGATIVE, 0.15)
    """Highest difference of INT8 logits from float ones on calibration and validation clips,
    as a share of their spread."""
    refuse: bool = True
    """Ends with an error where a model loses more, its logits differ more or it breaks the budget;
    false only says so."""
    min_validation_clips: int = within(NOT_NEGATIVE, ENOUGH_CLIPS)
    """A device with fewer validation clips is told the accuracy on those of all devices."""
    seed: int = 0
    """Any whole number: starts the random numbers that choose calibration clips."""


def quantize(config: QuantizeConfig, run: StageRun) -> Result:
    """Raises UserError with the figures where a model may not go on, unless `refuse` is off."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    models = device_models(run, config.finetune_run, data)
    check_clips_of(models, data)
    if refits := refits_of(config.finetune_run):
        print(f"Accuracies below are of validation clips, {what_clips_judge(refits)}", flush=True)
    found = _quantize_all(config, run, data, models)
    table = quantization_table(found)
    table.to_csv(run.folder / QUANTIZATION)
    verdict = judge_losses(found, config)
    print(f"{run.name}: {verdict}", flush=True)
    settings = {
        FINETUNED: by_own_models({one.device: one.float_predictions for one in found}),
        QUANTIZED: by_own_models({one.device: one.predictions for one in found}),
    }
    tolerable = f"Tolerable relative loss, as far as it stands: {config.tolerable_loss:.1%}"
    result = Result(
        metrics={
            BEST_ACCURACY: accuracy(settings[QUANTIZED], "mean_over_devices"),
            **{
                f"{column}/{stored(device)}": float(table.loc[device, column])
                for device in table.index
                for column in _METRICS
            },
        },
        files={name: run.folder / name for name in (INT8, QUANTIZATION, VALIDATION_PREDICTIONS)},
        kept=INT8,
        note=f"{tolerable}; {verdict}\n\n{as_markdown(table)}",
    )
    return with_validation_tables(result, data, settings, refits=refits)


def _quantize_all(
    config: QuantizeConfig, run: StageRun, data: PreparedData, models: Mapping[str, Classifier]
) -> list[Quantized]:
    """Leaves the models, what they share, and what each made of the validation clips."""
    folder, predictions, found = run.folder / INT8, run.folder / VALIDATION_PREDICTIONS, []
    for one in (folder, predictions):
        one.mkdir(exist_ok=True)
    quantize_one = partial(
        quantize_device,
        data=data,
        folder=folder,
        calibration_clips=config.calibration_clips,
        min_validation_clips=config.min_validation_clips,
        seed=config.seed,
    )
    for quantized in quantize_devices(models, quantize_one, run.shared):
        write_table(predictions / f"{stored(quantized.device)}.parquet", quantized.predictions)
        print(f"{run.name} {quantized.device}: {quantization_line(quantized)}", flush=True)
        found.append(quantized)
    classifier = next(iter(models.values()))
    description = classifier.description.as_dict() | {"clip_samples": data.waveforms.format.clip_samples}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1))
    return found


def judge_losses(found: Sequence[Quantized], config: QuantizeConfig) -> str:
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
    problems = [
        *over_budget(found.complexity),
        *(f"{problem} (counted in its file)" for problem in found.cost.problems()),
    ]
    if found.loss.standing > config.tolerable_loss:
        problems.append(
            f"{found.loss} on the validation clips of all devices, tolerable is {config.tolerable_loss:.1%}"
        )
    if not found.agreement.logit_error <= config.tolerable_logit_error:  # nor where it is no number
        problems.append(
            f"INT8 logits differ from float ones by {found.agreement.logit_error:.2f} of their spread, "
            f"tolerable is {config.tolerable_logit_error:.2f}"
        )
    if found.int8_convolutions != found.convolutions:
        problems.append(f"{found.int8_convolutions} of {found.convolutions} convolutions are INT8")
    return [f"{found.device}: {problem}" for problem in problems]


QUANTIZE = Stage("quantize", run=quantize, config=QuantizeConfig, score=INT8_ACCURACY, folds=OVER_FOLDS)

if __name__ == "__main__":
    QUANTIZE.main()
