"""Stage `predict`: a scene for each file of a table, by the router."""

import base64
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from tqdm import tqdm

from adaptf.data.decode import AudioError, seconds_of
from adaptf.data.download import EVALUATION_RECORD, ZENODO, download_record
from adaptf.data.errors import DataError
from adaptf.data.files import write_atomically
from adaptf.data.files_to_predict import check_files, read_files_to_predict
from adaptf.data.hashes import sha256_of
from adaptf.errors import UserError
from adaptf.mlproject.stage import run_stage
from adaptf.tracking import production, registry
from adaptf.tracking.requests import AUDIO, DEVICE, MAX_REQUEST_SECONDS
from adaptf.tracking.runs import Result, StageRun, digest

PREDICTIONS, OUTPUT = "predictions.csv", "output.csv"
"""Artifacts: all that the router answers, and the table that the challenge asks for."""
COLUMNS = ["filename", "scene", "probability", "device_asked", "device_used", "version_used"]
"""Of the first; a column per scene follows."""
FILES_PER_PART = 256
PARTS = "parts"
"""Answers so far, a CSV file for so many files: an interrupted stage goes on with those that are missing."""
REQUESTS_AT_ONCE = 2
"""While the router computes one on all its threads, the files of the next are read and encoded."""


@dataclass(frozen=True)
class PredictConfig:
    """Predicts the scenes of files."""

    files: str = "none"
    """CSV file with filename and device, or the folder of an evaluation set (evaluation_setup/test.csv)."""
    model_uri: str = f"models:/{registry.ROUTER_NAME}@{production.ALIAS}"
    """The router, or any registered model of adaptf. The version that is there when the stage begins answers for all files."""
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
    model = present_version(config.model_uri)
    contents = [sha256_of(path) for path in sorted(Path(model).rglob("*")) if path.is_file()]
    return digest(table.to_csv(), *(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats), model, *contents)


def present_version(model: str) -> str:
    """The URI of the version that a URI stands for now: another one may be promoted at any moment.

    `models:/NAME@production` is read as everywhere: by the alias, else by the stage. Raises UserError where there is none.
    """
    name, at, alias = model.removeprefix("models:/").partition("@")
    if not model.startswith("models:/") or re.fullmatch(r"[^/]+/\d+|m-\w+", name + at):
        return model  # a folder, a model of a run, a version: these stay what they are
    if not at:
        raise UserError(f"{model} should end with a version, as in {model.rpartition('/')[0] or model}/3, or with an alias")
    if alias == production.ALIAS:
        return f"models:/{name}/{production.resolve_production(name)}"
    try:
        return f"models:/{name}/{mlflow.MlflowClient().get_model_version_by_alias(name, alias).version}"
    except MlflowException as error:
        raise UserError(f"there is no model {model} in {mlflow.get_tracking_uri()} ({error.message})") from error


def predict(config: PredictConfig, run: StageRun) -> Result:
    """Scene, probabilities, the device asked for, the device used and the version used, per file."""
    table, root = read_files_to_predict(Path(config.files).absolute())
    model = present_version(config.model_uri)
    parts = answer_parts(table, root, run, model)
    counts = join(parts, run.folder)
    version = model.removeprefix("models:/")
    used = "\n".join(f"| {device} | {name} | {files} |" for (device, name), files in sorted(counts.items()))
    told = f"{len(table)} files by {version}\n\n| device | model | files |\n|---|---|---:|\n{used}"
    return Result(
        metrics={"files": len(table)},
        files={name: run.folder / name for name in (PREDICTIONS, OUTPUT)},
        tags={"adaptf.model": version},
        note=told,
        summary=told,
    )


def answer_parts(table: pd.DataFrame, root: Path, run: StageRun, model: str) -> list[Path]:
    """The answers of one version to all files, in parts in the table's order; those that are there are not asked for again."""
    folder = run.folder / PARTS / digest(model)  # never with those of a version that was there before
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(table), FILES_PER_PART)
    parts = {folder / f"{start:07d}.csv": table.iloc[start : start + FILES_PER_PART] for start in starts}
    missing = {part: rows for part, rows in parts.items() if not part.exists()}
    if len(missing) < len(parts):
        place = f"goes on with {next(iter(missing.values()))['filename'].iloc[0]}" if missing else "joins them"
        print(f"{run.name}: {len(parts) - len(missing)} of {len(parts)} parts are answered, {place}", flush=True)
    if missing:
        # A live router would take up versions that are promoted while it works.
        answer_missing(mlflow.pyfunc.load_model(model, model_config={"live": False}), missing, root, name=run.name)
    return list(parts)


def answer_missing(router: PyFuncModel, missing: Mapping[Path, pd.DataFrame], root: Path, *, name: str) -> None:
    """Asks for the parts and writes them. Raises DataError that names a file at fault."""

    def answer(part: Path) -> int:
        requests = requests_of(missing[part], root)
        answers: pd.DataFrame = pd.concat([ask(router, rows, root) for rows in requests], ignore_index=True)
        write_atomically(part, answers.to_csv(index=False, float_format="%.9g").encode())
        return len(answers)

    files = sum(map(len, missing.values()))
    with (
        ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool,
        tqdm(None, name, files, unit="file", delay=2, mininterval=1) as bar,
    ):
        for answered in pool.map(answer, missing):
            bar.update(answered)


def requests_of(rows: pd.DataFrame, root: Path) -> Iterator[pd.DataFrame]:
    """Consecutive rows that hold no more audio than one request may. Raises DataError for a file that changed meanwhile."""
    first, seconds_so_far = 0, 0.0
    for place, name in enumerate(rows["filename"]):
        try:
            seconds = seconds_of(root / name)
        except AudioError as error:
            raise DataError(f"{name}: {error}") from error
        if place > first and seconds_so_far + seconds > MAX_REQUEST_SECONDS:
            yield rows.iloc[first:place]
            first, seconds_so_far = place, 0.0
        seconds_so_far += seconds
    yield rows.iloc[first:]


def ask(router: PyFuncModel, rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The answer that the served router would give, with the file names and a column per scene.

    Raises DataError that names a file at fault.
    """
    names = list(rows["filename"])
    audio = [base64.b64encode(read_file(root, name)).decode() for name in names]
    try:
        answer = pd.DataFrame(router.predict(pd.DataFrame({AUDIO: audio, DEVICE: list(rows["device"])})))
    except MlflowException as error:
        if at_fault := re.match(r"row (\d+): (.*)", error.message, flags=re.DOTALL):
            raise DataError(f"{names[int(at_fault[1])]}: {at_fault[2]}") from error
        raise DataError(f"{names[0]} to {names[-1]}: {error.message}") from error
    answer.insert(0, "filename", names)
    return pd.concat([answer[COLUMNS], pd.DataFrame(list(answer["probabilities"]), index=answer.index)], axis=1)


def read_file(root: Path, name: str) -> bytes:
    """Raises DataError where it is gone or may not be read."""
    try:
        return (root / name).read_bytes()
    except OSError as error:
        raise DataError(f"{name}: {error.strerror}") from error


def join(parts: Sequence[Path], folder: Path) -> Counter[tuple[str, str]]:
    """Writes both tables, one part in memory after the other; counts the files per device and version used."""
    counts: Counter[tuple[str, str]] = Counter()
    with whole_or_not_at_all(folder / PREDICTIONS) as predictions, whole_or_not_at_all(folder / OUTPUT) as output:
        for part in parts:
            answers, first = pd.read_csv(part, dtype=str, keep_default_na=False), not counts
            answers.to_csv(predictions, index=False, header=first)
            for_challenge(answers).to_csv(output, sep="\t", index=False, header=first)
            counts.update(zip(answers["device_used"], answers["version_used"], strict=True))
    return counts


def for_challenge(answers: pd.DataFrame) -> pd.DataFrame:
    """filename, scene_label and a column of softmax values per scene, in the order of the classes."""
    scenes = answers.columns[len(COLUMNS) :]
    return answers[["filename", "scene", *scenes]].rename(columns={"scene": "scene_label"})


@contextmanager
def whole_or_not_at_all(path: Path) -> Iterator[TextIO]:
    """A text file that is written beside its place and put there at the end."""
    temporary = path.with_name(f".{path.name}")
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


if __name__ == "__main__":
    run_stage(predict, PredictConfig, inputs=files_digest)
