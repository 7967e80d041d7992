"""Stage `predict`: a scene for each file of a table, by the router."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from tqdm import tqdm

from adaptf.audio.logmel import CLIP_RATE
from adaptf.data.cuts import unfit
from adaptf.data.sets.download import EVALUATION_RECORD, download_record
from adaptf.data.sets.files_to_predict import check_each_file, read_files_to_predict
from adaptf.files import sha256_of, written_aside
from adaptf.names import find_file, in_markdown
from adaptf.pipeline.config import aside, file_or_name, path_field
from adaptf.pipeline.stage import Stage
from adaptf.serving.file_answers import ANSWER_COLUMNS, Asked, write_answers
from adaptf.serving.own_code import answering
from adaptf.serving.requests import MAX_PEAK
from adaptf.tracking import production
from adaptf.tracking.outcome import Result
from adaptf.tracking.present import IN_PRODUCTION, no_model, present_version
from adaptf.tracking.runs import digest
from adaptf.tracking.stage_run import StageRun

PREDICTIONS, OUTPUT = "predictions.csv", "output.csv"
"""Artifacts: all that the router answers, and the table that the challenge asks for."""
FILES_PER_PART, BYTES_PER_PART = 256, 2**26
PARTS = "parts"
"""Answers so far, a CSV file for so many files: an interrupted stage goes on with those that are missing."""


@dataclass(frozen=True)
class PredictConfig:
    """Predicts the scenes of files."""

    files: str = path_field("none")
    """CSV file with filename and device,
    or the folder of an evaluation set (evaluation_setup/test.csv or fold1_test.csv)."""
    model_uri: str = file_or_name(IN_PRODUCTION)
    """The router, or any registered model of adaptf. By default the router and the devices' models that are
    in production when the stage begins answer for all files;
    a version, as in models:/adaptf-router/3, answers as it was registered."""
    download: bool = aside(False)
    """Fetches the evaluation set of DCASE 2025 Task 1 into the folder `files` first."""


@dataclass(frozen=True)
class Models:
    """What answers for all files: others may be promoted at any moment."""

    uri: str
    """Of one version."""
    versions: Mapping[str, str]
    """By device what is in production, such as `adaptf-a/3`;
    empty where the version answers as it was registered."""
    digest: str
    """Tells them from all others, also from those of the same names and numbers in another store."""


def fetch(config: PredictConfig) -> None:
    """Downloads the evaluation set, where that is asked for."""
    if config.download:
        download_record(EVALUATION_RECORD, Path(config.files).absolute())


def files_digest(config: PredictConfig) -> str:
    """Of the table, the files and the present models. Raises UserError for what can't be used."""
    table, root = read_files_to_predict(Path(config.files).absolute())
    problem_of = partial(unfit, sample_rate=CLIP_RATE, max_peak=MAX_PEAK)
    check_each_file(table, root, problem_of=problem_of, source=config.files)
    models = present_models(config.model_uri)
    contents = [sha256_of(path) for path in sorted(Path(models.uri).rglob("*")) if path.is_file()]
    return digest(digest_of_files(table, root), models.digest, *contents)


def digest_of_files(table: pd.DataFrame, root: Path) -> str:
    """Of names, devices, sizes and times of change; one file in memory after the other."""
    content = hashlib.sha256()
    for name, device in zip(table["filename"], table["device"], strict=True):
        stat = find_file(root, name).stat()
        content.update(f"{name}\0{device}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return content.hexdigest()


def present_models(uri: str) -> Models:
    """What a URI stands for now. Raises UserError where there is no such model."""
    present = present_version(uri)
    versions = production.device_versions() if uri == IN_PRODUCTION else {}
    uris = [present, *(f"models:/{version}" for version in versions.values())]
    sources = [f"{each}\0{source_of(each)}" for each in uris]
    return Models(present, versions, digest(mlflow.get_tracking_uri(), mlflow.get_registry_uri(), *sources))


def source_of(uri: str) -> str:
    """Where a registered version came from, which no other store has; any other URI says so itself.

    Raises UserError where there is no such version.
    """
    version = re.fullmatch(r"models:/([^/]+)/(\d+)", uri)
    if version is None:
        return uri
    try:
        return str(mlflow.MlflowClient().get_model_version(*version.groups()).source)
    except MlflowException as error:
        raise no_model(uri, error) from error


def predict(config: PredictConfig, run: StageRun) -> Result:
    """Scene, probabilities, the device asked for, the device used and the version used, per file."""
    table, root = read_files_to_predict(Path(config.files).absolute())
    models = present_models(config.model_uri)
    parts = answer_parts(table, root, run, models)
    counts = join(parts, run.folder)
    version = models.uri.removeprefix("models:/")
    used = "\n".join(
        f"| {in_markdown(device)} | {name} | {files} |" for (device, name), files in sorted(counts.items())
    )
    told = f"{len(table)} files by {version}\n\n| device | model | files |\n|---|---|---:|\n{used}"
    return Result(
        metrics={"files": len(table)},
        files={name: run.folder / name for name in (PREDICTIONS, OUTPUT)},
        tags={"adaptf.model": version},
        note=told,
        summary=told,
    )


def answer_parts(table: pd.DataFrame, root: Path, run: StageRun, models: Models) -> list[Path]:
    """The answers of the same models to all files, in parts in the table's order;
    what is there is not asked for again."""
    folder = run.folder / PARTS / models.digest  # never with those of models that were there before
    folder.mkdir(parents=True, exist_ok=True)
    parts = {folder / f"{rows.index[0]:07d}.csv": rows for rows in cut_into_parts(table, root)}
    missing = {part: rows for part, rows in parts.items() if not part.exists()}
    if len(missing) < len(parts):
        place = (
            f"goes on with {next(iter(missing.values()))['filename'].iloc[0]}" if missing else "joins them"
        )
        print(
            f"{run.name}: {len(parts) - len(missing)} of {len(parts)} parts are answered, {place}", flush=True
        )
    if missing:
        with (
            TemporaryDirectory(prefix="adaptf-") as there,
            answering(models.uri, models.versions, Path(there), parts=len(missing)) as (pool, who),
        ):
            answer_missing(pool, who, missing, root, name=run.name)
    return list(parts)


def cut_into_parts(table: pd.DataFrame, root: Path) -> Iterator[pd.DataFrame]:
    """Consecutive rows, fewer of them where files are large: cores take parts."""
    begin, size = 0, 0
    for row, name in enumerate(table["filename"]):
        path = find_file(root, name)
        of_file = path.stat().st_size if path.is_file() else 0  # what is gone is named when it is read
        if row - begin == FILES_PER_PART or (row > begin and size + of_file > BYTES_PER_PART):
            yield table.iloc[begin:row]
            begin, size = row, 0
        size += of_file
    yield table.iloc[begin:]


def answer_missing(
    pool: Executor, who: Callable[[], Asked], missing: Mapping[Path, pd.DataFrame], root: Path, *, name: str
) -> None:
    """Has the parts answered and written in the pool. Raises DataError that names a file at fault."""
    files = sum(map(len, missing.values()))
    with tqdm(None, name, files, unit="file", delay=2, mininterval=1) as bar:
        for answered in pool.map(partial(write_answers, root=root, who=who), missing, missing.values()):
            bar.update(answered)


def join(parts: Sequence[Path], folder: Path) -> Counter[tuple[str, str]]:
    """Writes both tables, one part in memory after the other;
    counts the files per device and version used."""
    counts: Counter[tuple[str, str]] = Counter()
    with written_aside(folder / PREDICTIONS) as predictions, written_aside(folder / OUTPUT) as output:
        for part in parts:
            answers, first = pd.read_csv(part, dtype=str, keep_default_na=False), not counts
            answers.to_csv(predictions, mode="a", index=False, header=first)
            for_challenge(answers).to_csv(output, mode="a", sep="\t", index=False, header=first)
            counts.update(zip(answers["device_used"], answers["version_used"], strict=True))
    return counts


def for_challenge(answers: pd.DataFrame) -> pd.DataFrame:
    """filename, scene_label and a column of softmax values per scene, in the order of the classes."""
    scenes = answers.columns[len(ANSWER_COLUMNS) :]
    return answers[["filename", "scene", *scenes]].rename(columns={"scene": "scene_label"})


PREDICT = Stage(
    "predict",
    run=predict,
    config=PredictConfig,
    fetch=fetch,
    reads=files_digest,
    words=lambda config: [Path(config.files).stem],
)


if __name__ == "__main__":
    PREDICT.main()
