"""Stage `predict`: a scene for each file of a table, by the router."""

import base64
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import mlflow
import numpy as np
import pandas as pd
import soundfile
from mlflow.exceptions import MlflowException
from tqdm import tqdm

from adaptf.audio.logmel import CLIP_RATE
from adaptf.data.cuts import cut_file, unfit
from adaptf.data.decode import AudioError, Resampler, opened
from adaptf.data.errors import DataError
from adaptf.data.parts import parts_in
from adaptf.data.sets.download import EVALUATION_RECORD, download_record
from adaptf.data.sets.files_to_predict import check_each_file, read_files_to_predict
from adaptf.errors import UserError
from adaptf.files import sha256_of, write_atomically, written_aside
from adaptf.names import find_file, in_markdown
from adaptf.pipeline.config import aside, file_or_name, path_field
from adaptf.pipeline.sources import SCENE_CLIP_SECONDS
from adaptf.pipeline.stage import Stage
from adaptf.serving.own_code import Router, router_behind
from adaptf.serving.requests import AUDIO, DEVICE, MAX_CHANNELS, MAX_PEAK, MAX_SAMPLE_RATE
from adaptf.tracking import production, registry
from adaptf.tracking.outcome import Result
from adaptf.tracking.present import IN_PRODUCTION, no_model, present_version
from adaptf.tracking.runs import digest
from adaptf.tracking.stage_run import StageRun

PREDICTIONS, OUTPUT = "predictions.csv", "output.csv"
"""Artifacts: all that the router answers, and the table that the challenge asks for."""
ANSWER_COLUMNS = ["filename", "scene", "probability", "device_asked", "device_used", "version_used"]
"""Of the first; a column per scene follows."""
FILES_PER_PART = 256
CLIPS_PER_REQUEST = 256
"""Within what a router takes at once, whoever registered it."""
PARTS = "parts"
"""Answers so far, a CSV file for so many files: an interrupted stage goes on with those that are missing."""
REQUESTS_AT_ONCE = 2
"""While the router computes one on all its threads, the files of the next are read and encoded."""
FOLLOWING = {"live": True, "check_seconds": 86_400.0}
"""Settings of a router that takes up what is in production before its first answer,
and then practically never."""
AS_REGISTERED = {"live": False}


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
    starts = range(0, len(table), FILES_PER_PART)
    parts = {folder / f"{start:07d}.csv": table.iloc[start : start + FILES_PER_PART] for start in starts}
    missing = {part: rows for part, rows in parts.items() if not part.exists()}
    if len(missing) < len(parts):
        place = (
            f"goes on with {next(iter(missing.values()))['filename'].iloc[0]}" if missing else "joins them"
        )
        print(
            f"{run.name}: {len(parts) - len(missing)} of {len(parts)} parts are answered, {place}", flush=True
        )
    if missing:
        with TemporaryDirectory() as there:
            settings = FOLLOWING if models.versions else AS_REGISTERED
            with router_behind(models.uri, Path(there), what=models.uri, **settings) as router:
                answer_missing(router, missing, root, name=run.name, versions=models.versions)
    return list(parts)


def answer_missing(
    router: Router,
    missing: Mapping[Path, pd.DataFrame],
    root: Path,
    *,
    name: str,
    versions: Mapping[str, str] | None = None,
) -> None:
    """Asks for the parts and writes them; `versions` are those that have to answer, by device.

    Raises DataError that names a file at fault, and UserError where another version answers.
    """

    def answer(part: Path) -> int:
        rows = missing[part]
        by_clip = pd.concat([ask_router(router, clips) for clips in requests_of(cut_into_clips(rows, root))])
        check_versions(by_clip, versions or {})
        answers = per_file(by_clip)
        write_atomically(part, answers.to_csv(index=False, float_format="%.9g").encode())
        return len(answers)

    files = sum(map(len, missing.values()))
    with (
        ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool,
        tqdm(None, name, files, unit="file", delay=2, mininterval=1) as bar,
    ):
        for answered in pool.map(answer, missing):
            bar.update(answered)


def check_versions(answers: pd.DataFrame, versions: Mapping[str, str]) -> None:
    """Raises UserError where a device was not answered by its version;
    one without a version may be answered by any."""
    answered = answers[["device_asked", "device_used", "version_used"]].drop_duplicates()
    for asked, used, version in answered.itertuples(index=False):
        wanted = versions.get(asked if asked in versions else used, version)
        if version != wanted:
            raise UserError(
                f"device {asked!r} was answered by {version}; {wanted} was in production when the stage "
                f"began. Run it again: another version may have been promoted just then. If that does not "
                f"help, {wanted} cannot be taken up, which the log and /version of a live router explain: "
                f"promote another one, or give the router as it was registered, as in --model_uri "
                f"models:/{registry.ROUTER_NAME}/3"
            )


class Clip(NamedTuple):
    """A second of a file."""

    row: int
    """Of the file in its part of the table."""
    filename: str
    device: str
    audio: str
    """As a request has it."""


def cut_into_clips(rows: pd.DataFrame, root: Path) -> Iterator[Clip]:
    """The files as clips, so that a file of any length, rate,
    format and number of channels is one that the router takes.

    Raises DataError for a file that changed meanwhile.
    """
    resample = Resampler(CLIP_RATE)
    for row, (name, device) in enumerate(zip(rows["filename"], rows["device"], strict=True)):
        try:
            path = find_file(root, name)
            yield from (
                Clip(row, name, device, base64.b64encode(wav).decode()) for wav in wavs_of(path, resample)
            )
        except AudioError as error:
            raise DataError(f"{name}: {error}") from error
        except MemoryError as error:
            raise DataError(f"{name}: memory is too short to decode it") from error


def wavs_of(path: Path, resample: Resampler) -> Iterator[bytes]:
    """The clips of a file, each as a WAV file. One that is such a clip goes as it is, in half the time."""
    if is_clip(path):
        yield path.read_bytes()
        return
    samples = round(SCENE_CLIP_SECONDS * CLIP_RATE)
    for number, cut in enumerate(cut_file(path, resample, clip_samples=samples)):
        if number < parts_in(number * samples + len(cut.clip), samples):
            wav = BytesIO()
            clip = np.pad(cut.clip, (0, samples - len(cut.clip)))
            soundfile.write(wav, clip, CLIP_RATE, format="WAV", subtype="FLOAT")
            yield wav.getvalue()


def is_clip(path: Path) -> bool:
    """Whether any router takes the file for one clip."""
    with opened(path) as file:
        short = file.frames <= SCENE_CLIP_SECONDS * file.samplerate
        return bool(
            file.format in ("WAV", "WAVEX")
            and short
            and file.samplerate <= MAX_SAMPLE_RATE
            and file.channels <= MAX_CHANNELS
        )


def requests_of(clips: Iterator[Clip]) -> Iterator[list[Clip]]:
    """Consecutive clips, as many as a request may hold."""
    while request := list(itertools.islice(clips, CLIPS_PER_REQUEST)):
        yield request


def ask_router(router: Router, clips: Sequence[Clip]) -> pd.DataFrame:
    """The answer that the served router would give to each clip, by the file's row, with a column per scene.

    Raises DataError that names a file at fault.
    """
    request = pd.DataFrame({AUDIO: [clip.audio for clip in clips], DEVICE: [clip.device for clip in clips]})
    try:
        answer = pd.DataFrame(router.predict(None, request))
    except MlflowException as error:
        if at_fault := re.match(r"row (\d+): (.*)", error.message, flags=re.DOTALL):
            raise DataError(f"{clips[int(at_fault[1])].filename}: {at_fault[2]}") from error
        raise DataError(f"{clips[0].filename} to {clips[-1].filename}: {error.message}") from error
    answer.insert(0, "filename", [clip.filename for clip in clips])
    answer.index = pd.Index([clip.row for clip in clips])
    return pd.concat(
        [answer[ANSWER_COLUMNS], pd.DataFrame(list(answer["probabilities"]), index=answer.index)], axis=1
    )


def per_file(by_clip: pd.DataFrame) -> pd.DataFrame:
    """The answer to each file: that to its only clip, else the mean over its clips."""
    answers = by_clip[~by_clip.index.duplicated()].copy()
    several = by_clip.index.value_counts().loc[lambda clips: clips > 1].index
    means = by_clip.loc[several, by_clip.columns[len(ANSWER_COLUMNS) :]].groupby(level=0).mean()
    answers.loc[means.index, means.columns] = means
    answers.loc[means.index, "scene"] = means.idxmax(axis="columns")
    answers.loc[means.index, "probability"] = means.max(axis="columns")
    return answers


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
