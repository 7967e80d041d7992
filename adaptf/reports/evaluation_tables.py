"""The figures of `evaluate`: tables of the settings' predictions, as CSV files and as metrics."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from adaptf.data.clips import TEST, devices_of
from adaptf.evaluation.calibration import (
    CALIBRATION_ERROR,
    calibration_table,
    rejection_table,
    reliability_tables,
)
from adaptf.evaluation.scores import Runs, confusion, log_loss, macro_accuracy
from adaptf.evaluation.tables import accuracy_table, device_table, difference_table, scene_table
from adaptf.pipeline.artifacts import TEST_ACCURACY
from adaptf.pipeline.dataset import PreparedData
from adaptf.pipeline.prediction_files import write_predictions


def tables_of(settings: Mapping[str, Runs], data: PreparedData) -> dict[str, pd.DataFrame]:
    """By the names of their CSV files."""
    return {
        "accuracies": accuracy_table(settings),
        "differences": _differences_of(settings),
        "scenes": scene_table(settings, data.classes),
        "devices": device_table(settings, devices_of(data.table)),
        "calibration": calibration_table(settings, data.classes),
        "reliability": reliability_tables(settings, data.classes),
        "rejection": rejection_table(settings, data.classes),
    }


def _differences_of(settings: Mapping[str, Runs]) -> pd.DataFrame:
    """Between settings of as many runs each: only these can be paired."""
    numbers = sorted({len(predictions) for predictions in settings.values()})
    groups = [{name: one for name, one in settings.items() if len(one) == number} for number in numbers]
    return pd.concat([difference_table(group) for group in groups])


def write_tables(
    settings: Mapping[str, Runs], data: PreparedData, tables: Mapping[str, pd.DataFrame], folder: Path
) -> None:
    """CSV files of all tables that are not empty and of the confusions, and the predictions."""
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        if len(table):
            table.to_csv(folder / f"{name}.csv")
    confusions = {
        (setting, device): matrix
        for setting, predictions in settings.items()
        for device, matrix in confusions_by_device(predictions, data).items()
    }
    pd.concat(confusions, names=["setting", "device", "scene"]).to_csv(folder / "confusions.csv")
    write_predictions(settings, folder)


def confusions_by_device(predictions: Runs, data: PreparedData) -> dict[str, pd.DataFrame]:
    """Confusion matrices of each device's test clips."""
    devices = devices_of(data.table, TEST)
    return {
        device: confusion([run[run["device"] == device] for run in predictions], data.classes)
        for device in devices
    }


def metrics_of(
    settings: Mapping[str, Runs], data: PreparedData, calibration: pd.DataFrame
) -> dict[str, float]:
    """Macro-average accuracy, log loss and calibration error (a fraction) per setting,
    the means over its runs."""
    metrics = {}
    for setting, predictions in settings.items():
        metrics[f"{TEST_ACCURACY}/{setting}"] = sum(macro_accuracy(one) for one in predictions) / len(
            predictions
        )
        metrics[f"test/log_loss/{setting}"] = sum(log_loss(one, data.classes) for one in predictions) / len(
            predictions
        )
        metrics[f"test/calibration_error/{setting}"] = float(calibration[CALIBRATION_ERROR][setting]) / 100
    return metrics
