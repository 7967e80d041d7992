"""The predictions that `evaluate` leaves, and their reading by later stages."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from adaptf.data.parquet import read_table, write_table
from adaptf.evaluation.scores import Runs
from adaptf.pipeline.artifacts import TABLES_FOLDER
from adaptf.tracking.stage_run import StageRun


def _predictions_name(setting: str, place: int) -> str:
    """File of one run's predictions."""
    return f"predictions {setting}{f' {place}' if place else ''}.parquet"


def write_predictions(settings: Mapping[str, Runs], folder: Path) -> None:
    """A file per run."""
    for setting, predictions in settings.items():
        for place, one in enumerate(predictions):
            write_table(folder / _predictions_name(setting, place), one)


def read_predictions(run: StageRun, evaluated: str, setting: str, place: int = 0) -> pd.DataFrame:
    """Predictions of a setting's only run, or of that at a place among several,
    from another run of `evaluate`."""
    return read_table(run.download(evaluated, TABLES_FOLDER) / _predictions_name(setting, place))
