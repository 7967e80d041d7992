"""The predictions that `evaluate` leaves as CSV files, and their reading by later stages."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from adaptf.evaluation.scores import Runs, read_prediction_table
from adaptf.tracking.runs import StageRun

TABLES_FOLDER = "tables"
"""Artifact folder: tables of figures, and a table of predictions per run of each setting."""


def predictions_name(setting: str, place: int) -> str:
    """File of one run's predictions."""
    return f"predictions {setting}{f' {place}' if place else ''}.csv"


def write_predictions(settings: Mapping[str, Runs], folder: Path) -> None:
    """A file per run."""
    for setting, predictions in settings.items():
        for place, one in enumerate(predictions):
            one.to_csv(folder / predictions_name(setting, place), index=False, float_format="%.9g")


def read_predictions(run: StageRun, evaluated: str, setting: str, place: int = 0) -> pd.DataFrame:
    """Predictions of a setting's only run, or of that at a place among several, from another run of `evaluate`."""
    return read_prediction_table(run.download(evaluated, f"{TABLES_FOLDER}/{predictions_name(setting, place)}"))
