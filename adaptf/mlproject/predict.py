"""Stage `predict`: a scene for each file of a table, by the router."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from tqdm import tqdm

from adaptf.data.files_to_predict import read_files_to_predict
from adaptf.errors import UserError
from adaptf.mlproject.stage import run_stage
from adaptf.tracking import registry
from adaptf.tracking.runs import Result, StageRun, digest

PREDICTIONS = "predictions.csv"
FILES_PER_REQUEST = 64


@dataclass(frozen=True)
class PredictConfig:
    """Predicts the scenes of files."""

    files: str = "none"
    """CSV file with filename and device, or the folder of an evaluation set (evaluation_setup/test.csv)."""
    model_uri: str = f"models:/{registry.ROUTER_NAME}@{registry.ALIAS}"
    """The router, or any registered model of adaptf."""


def files_digest(config: PredictConfig) -> str:
    """Of the table and of the model's present version. Raises UserError where either is missing."""
    table, root = read_files_to_predict(Path(config.files).absolute())
    stats = [(root / name).stat() for name in table["filename"]]
    return digest(table.to_csv(), *(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats), model_version(config.model_uri))


def model_version(model: str) -> str:
    """Name and version behind a URI such as models:/adaptf-router@production."""
    if not model.startswith("models:/"):
        return model
    name, at, alias = model.removeprefix("models:/").partition("@")
    try:
        return f"{name}/{mlflow.MlflowClient().get_model_version_by_alias(name, alias).version}" if at else name
    except MlflowException as error:
        raise UserError(
            f"there is no model {model} in {mlflow.get_tracking_uri()}: promote one first ({error.message})"
        ) from error


def predict(config: PredictConfig, run: StageRun) -> Result:
    """Scene, probabilities, the device asked for, the device used and the version used, per file."""
    table, root = read_files_to_predict(Path(config.files).absolute())
    router = mlflow.pyfunc.load_model(config.model_uri)
    answers = [
        pd.concat([rows[["filename"]].reset_index(drop=True), flat(router.predict(request))], axis=1)
        for rows, request in requests(table, root, run.name)
    ]
    predictions = pd.concat(answers, ignore_index=True)
    predictions.to_csv(run.folder / PREDICTIONS, index=False, float_format="%.9g")
    counts = predictions.groupby(["device_used", "version_used"]).size().rename("files").reset_index().set_index("device_used")
    return Result(
        metrics={"files": len(predictions)},
        files={PREDICTIONS: run.folder / PREDICTIONS},
        tags={"adaptf.model": model_version(config.model_uri)},
        note=f"{len(predictions)} files by {model_version(config.model_uri)}.",
        summary=f"{len(predictions)} files by {model_version(config.model_uri)}; models used:\n{counts.to_string()}",
    )


def requests(table: pd.DataFrame, root: Path, name: str) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Rows of the table with the request that the served router would get for them."""
    starts = range(0, len(table), FILES_PER_REQUEST)
    for start in tqdm(starts, name, unit="request", delay=2, mininterval=1):
        rows = table.iloc[start : start + FILES_PER_REQUEST]
        audio = [base64.b64encode((root / filename).read_bytes()).decode() for filename in rows["filename"]]
        yield rows, pd.DataFrame({"audio": audio, "device": list(rows["device"])})


def flat(answer: pd.DataFrame) -> pd.DataFrame:
    """One column per scene instead of a dictionary."""
    probabilities = pd.DataFrame(list(answer["probabilities"]))
    return pd.concat([answer.drop(columns="probabilities").reset_index(drop=True), probabilities], axis=1)


if __name__ == "__main__":
    run_stage(predict, PredictConfig, inputs=files_digest)
