"""Stage `predict`: a scene for each file of a table, by the router."""

import base64
import re
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from tqdm import tqdm

from adaptf.data.download import EVALUATION_RECORD, ZENODO, download_record
from adaptf.data.errors import DataError
from adaptf.data.files import write_atomically
from adaptf.data.files_to_predict import check_files, read_files_to_predict
from adaptf.errors import UserError
from adaptf.mlproject.stage import run_stage
from adaptf.tracking import registry
from adaptf.tracking.runs import Result, StageRun, digest

PREDICTIONS = "predictions.csv"
FILES_PER_REQUEST = 256
PARTS = "parts"
"""Answers so far, a file per request: an interrupted stage goes on behind the last one."""


@dataclass(frozen=True)
class PredictConfig:
    """Predicts the scenes of files."""

    files: str = "none"
    """CSV file with filename and device, or the folder of an evaluation set (evaluation_setup/test.csv)."""
    model_uri: str = f"models:/{registry.ROUTER_NAME}@{registry.ALIAS}"
    """The router, or any registered model of adaptf."""
    download: bool = False
    """Fetches the evaluation set of DCASE 2025 Task 1 into the folder `files` first."""
    download_server: str = ZENODO
    """Where the public record is."""


def files_digest(config: PredictConfig) -> str:
    """Of the table, the files and the model's present version. Raises UserError for what can't be used."""
    if config.download:
        download_record(EVALUATION_RECORD, Path(config.files).absolute(), server=config.download_server)
    table, root = read_files_to_predict(Path(config.files).absolute())
    check_files(table, root, source=config.files)
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
    parts = answer_parts(table, root, run, config.model_uri)
    predictions = pd.concat([pd.read_csv(part, keep_default_na=False) for part in parts], ignore_index=True)
    predictions.to_csv(run.folder / PREDICTIONS, index=False)
    counts = predictions.groupby(["device_used", "version_used"]).size().rename("files").reset_index().set_index("device_used")
    return Result(
        metrics={"files": len(predictions)},
        files={PREDICTIONS: run.folder / PREDICTIONS},
        tags={"adaptf.model": model_version(config.model_uri)},
        note=f"{len(predictions)} files by {model_version(config.model_uri)}.",
        summary=f"{len(predictions)} files by {model_version(config.model_uri)}; models used:\n{counts.to_string()}",
    )


def answer_parts(table: pd.DataFrame, root: Path, run: StageRun, model_uri: str) -> list[Path]:
    """A CSV file per request, in their order; those that are there are not asked for again."""
    folder = run.folder / PARTS
    folder.mkdir(exist_ok=True)
    parts = {folder / f"{start:07d}.csv": table.iloc[start : start + FILES_PER_REQUEST] for start in starts_of(table)}
    missing = [part for part in parts if not part.exists()]
    if len(missing) < len(parts):
        print(f"{run.name} continues: {len(parts) - len(missing)} of {len(parts)} requests are answered", flush=True)
    router = mlflow.pyfunc.load_model(model_uri)
    with tqdm(None, run.name, sum(len(parts[part]) for part in missing), unit="file", delay=2, mininterval=1) as bar:
        for part in missing:
            answers = flat(ask(router, parts[part], root))
            write_atomically(part, answers.to_csv(index=False, float_format="%.9g").encode())
            bar.update(len(answers))
    return list(parts)


def starts_of(table: pd.DataFrame) -> range:
    """First row of each request."""
    return range(0, len(table), FILES_PER_REQUEST)


def ask(router: PyFuncModel, rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The answer that the served router would give, with the file names. Raises DataError that names a file at fault."""
    names = list(rows["filename"])
    audio = [base64.b64encode((root / name).read_bytes()).decode() for name in names]
    try:
        answer = pd.DataFrame(router.predict(pd.DataFrame({"audio": audio, "device": list(rows["device"])})))
    except MlflowException as error:
        if at_fault := re.match(r"row (\d+): (.*)", error.message, flags=re.DOTALL):
            raise DataError(f"{names[int(at_fault[1])]}: {at_fault[2]}") from error
        raise
    answer.insert(0, "filename", names)
    return answer


def flat(answer: pd.DataFrame) -> pd.DataFrame:
    """One column per scene instead of a dictionary."""
    probabilities = pd.DataFrame(list(answer["probabilities"]))
    return pd.concat([answer.drop(columns="probabilities").reset_index(drop=True), probabilities], axis=1)


if __name__ == "__main__":
    run_stage(predict, PredictConfig, inputs=files_digest)
