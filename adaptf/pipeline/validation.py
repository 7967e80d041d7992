"""What the page of a run tells of validation clips:
tables by scene and by device, accuracies per device, the predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adaptf.data.clip_set import ClipSet
from adaptf.data.clips import UNKNOWN, VALIDATION, devices_of
from adaptf.data.log_mels import LogMelTables
from adaptf.data.parquet import read_table, write_table
from adaptf.evaluation.predict import inference_device, predict_logits
from adaptf.evaluation.scores import (
    absent_scenes,
    accuracy,
    macro_accuracy,
    macro_accuracy_per_device,
    places_of,
    prediction_table,
    say_absent,
)
from adaptf.evaluation.tables import as_markdown, device_table, scene_table
from adaptf.models.checkpoint import load_classifier
from adaptf.models.classifier import Classifier
from adaptf.names import stored, written
from adaptf.pipeline.artifacts import BEST_ACCURACY, VALIDATION_PREDICTIONS
from adaptf.pipeline.config import TrainerConfig
from adaptf.pipeline.dataset import PreparedData
from adaptf.pipeline.refit import as_refit, refits_of, what_clips_judge
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun

TRAINED, DISTILLED, FINETUNED, QUANTIZED = "trained", "distilled", "per device", "per device INT8"
"""What the tables call the settings."""
SYNTHESISED = "Synthesised sounds: these figures say nothing about real scenes."
ENOUGH_CLIPS = 100
"""Of a device: with fewer validation clips it is judged on those of all devices."""


def predict_validation(
    model: Classifier | Path,
    run: StageRun,
    data: PreparedData,
    trainer: TrainerConfig,
    *,
    clips: ClipSet | None = None,
) -> pd.DataFrame:
    """Predictions by a classifier, or the one in a checkpoint,
    of all validation clips or of some of the data's clips.

    Log-mels that a training has kept are not computed again.
    """
    classifier = load_classifier(model) if isinstance(model, Path) else model
    clips = data.clips(VALIDATION) if clips is None else clips
    device = inference_device(trainer.accelerator)
    keep = run.shared.once(LogMelTables, LogMelTables).keeper(classifier.features, trainer)
    (heard,) = keep([clips], device)
    classifier.to(device)
    logits = predict_logits(classifier if heard is clips else classifier.network, heard, device=device)
    classifier.to("cpu")
    return predictions_from(logits, clips, data)


def predictions_from(logits: NDArray[np.float32], clips: ClipSet, data: PreparedData) -> pd.DataFrame:
    """The table of predictions of these clips of the data, from (clips, classes) logits."""
    rows = data.table.set_index("filename").loc[list(clips.filenames)].reset_index()
    return prediction_table(rows, logits, data.classes)


def by_own_models(predictions: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One table of those of the devices' models:
    a clip by the model of its device, or by `unknown` where it has none.

    A clip that the model which is due was not asked about is left out.
    """
    due = {device: table["device"] == device for device, table in predictions.items()}
    due[UNKNOWN] = ~predictions[UNKNOWN]["device"].isin(predictions.keys() - {UNKNOWN})
    return pd.concat([table[due[device]] for device, table in predictions.items()], ignore_index=True)


def read_by_own_models(folder: Path) -> pd.DataFrame:
    """The same of the tables that a run of `quantize` leaves, a file per device."""
    return by_own_models({written(path.stem): read_table(path) for path in folder.glob("[!.]*.parquet")})


def with_validation_tables(
    result: Result,
    data: PreparedData,
    settings: Mapping[str, pd.DataFrame],
    *,
    chose: bool = True,
    refits: Sequence[str] = (),
) -> Result:
    """The result with both tables on top of its note, and per device the accuracy of the last setting.

    `chose`: whether the checkpoint was chosen on these clips. `refits`:
    runs behind the models that have learnt from them.
    """
    accuracies = macro_accuracy_per_device(list(settings.values())[-1])
    of_devices = {
        f"{BEST_ACCURACY}/{stored(str(device))}": float(accuracy) for device, accuracy in accuracies.items()
    }
    note = f"{_validation_tables(settings, data, what_clips_judge(refits, chose=chose))}\n\n{result.note}"
    return replace(result, metrics={**result.metrics, **of_devices}, note=note)


def with_tables_of_unchosen(
    result: Result,
    run: StageRun,
    data: PreparedData,
    settings: Mapping[str, pd.DataFrame],
    *,
    start: str,
    refit: bool,
) -> Result:
    """The same of models that validation clips have not chosen: they begin at those of `start`, and have
    learnt from the clips where they, or the training itself as a `refit`, did."""
    refits = [*refits_of(start), *[run.name] * refit]
    return with_validation_tables(
        as_refit(result) if refit else result, data, settings, chose=False, refits=refits
    )


def with_predictions(result: Result, run: StageRun, settings: Mapping[str, pd.DataFrame]) -> Result:
    """The result with the predictions of each setting as an artifact."""
    folder = run.folder / VALIDATION_PREDICTIONS
    folder.mkdir(exist_ok=True)
    for setting, predictions in settings.items():
        write_table(folder / f"{setting}.parquet", predictions)
    return replace(result, files={**result.files, VALIDATION_PREDICTIONS: folder})


def read_validation_predictions(run: StageRun, run_id: str, setting: str) -> pd.DataFrame:
    """What `with_predictions` left in another run."""
    return read_table(run.download(run_id, VALIDATION_PREDICTIONS) / f"{setting}.parquet")


def _validation_tables(settings: Mapping[str, pd.DataFrame], data: PreparedData, role: str) -> str:
    """Markdown: a sentence, which is all that the page shows before somebody clicks,
    then scene by setting, device by setting.

    Settings may have been asked about unlike clips;
    the sentence tells those of the last one, and what its means leave out.
    """
    runs = {setting: [predictions] for setting, predictions in settings.items()}
    shown = list(settings.values())[-1]
    scores = ", ".join(
        f"{setting} **{accuracy(one, 'mean_over_devices'):.1%}**" for setting, one in settings.items()
    )
    plain = ", ".join(f"{setting} {macro_accuracy(one):.1%}" for setting, one in settings.items())
    sounds = f" {SYNTHESISED}" if data.synthesised else ""
    clips = f"{len(shown)} validation clips of {places_of(shown).nunique()} places"
    lead = f"Macro-average accuracy, mean over devices: {scores}, on {clips}, {role}.{sounds}"
    more = " ".join(
        filter(None, [f"Over all clips together: {plain}.", say_absent(absent_scenes(shown, data.classes))])
    )
    devices = device_table(runs, devices_of(data.table))
    return "\n\n".join([lead, more, as_markdown(scene_table(runs, data.classes)), as_markdown(devices)])
