"""Stage `prepare`: checks every file of a data set, decodes it into the waveform cache and reports on it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from adaptf.data.cache.build import build_cache, distinct_files, keys_of
from adaptf.data.cache.waveforms import WaveformCache
from adaptf.data.clips import TRAIN, VALIDATION
from adaptf.data.errors import DataError, raise_problems
from adaptf.data.hashes import hash_files
from adaptf.data.parquet import write_table
from adaptf.data.processes import process_pool
from adaptf.data.sets.download import DEVELOPMENT_RECORD, download_record
from adaptf.data.sets.findings import check_leaks, is_silent
from adaptf.demo.data_sets import is_demo
from adaptf.files import writable_folder
from adaptf.pipeline.artifacts import (
    CLIPS,
    DATA,
    DATA_KIND,
    DATASET,
    SCENES_KIND,
    TO_PRETRAIN,
    TRAINING_CLIPS,
)
from adaptf.pipeline.config import DataConfig, aside
from adaptf.pipeline.several import OVER_FOLDS
from adaptf.pipeline.sources import FoundData, find_data
from adaptf.pipeline.stage import Stage
from adaptf.reports.data_figures import clips_figure, labels_figure, mosaic_figure
from adaptf.reports.data_report import FINDINGS, DataReport, as_markdown, as_text, findings_table, make_report
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import digest
from adaptf.tracking.stage_run import StageRun, UsedData
from adaptf.tracking.tags import DATA_DIGEST, fold_tag

LENGTH_TOLERANCE_SAMPLES = 2
"""Resampling rounds a clip's length."""


@dataclass(frozen=True)
class PrepareConfig:
    """Checks a data set, builds its waveform cache and reports on it."""

    data: DataConfig = DataConfig()
    download: bool = aside(False)
    """Fetches TAU Urban Acoustic Scenes 2022 Mobile (30 GB) into data.root first;
    what is there is not fetched again."""


@dataclass(frozen=True)
class Usable:
    """The clips that can be used."""

    table: pd.DataFrame
    """The source's table with the column key."""
    levels: pd.DataFrame
    """Row by row: seconds, peak, rms, dc, clipped."""
    unreadable: tuple[str, ...]
    notes: tuple[str, ...]


def fetch(config: PrepareConfig) -> None:
    """Downloads what is not there yet, where that is asked for."""
    if config.download:
        download_record(DEVELOPMENT_RECORD, Path(config.data.root).absolute())


def data_digest(config: PrepareConfig) -> str:
    """Digest of the table and of the content of every file. Raises UserError for what can't be used."""
    memory_folder, source = cache_folder(config.data), find_data(config.data)
    names = list(source.table["filename"])
    with process_pool(config.data.workers) as pool:
        files = hash_files(
            source.audio_root,
            distinct_files(names),
            memory_folder=memory_folder,
            pool=pool,
            read_all=config.data.verify,
        )
    return digest(source.table.to_csv(index=False), *keys_of(names, files))


def cache_folder(config: DataConfig) -> Path:
    """The folder of all waveform caches, made where it is not there.
    Raises UserError where nothing can be written in it."""
    return writable_folder(Path(config.cache).absolute(), what="data.cache")


def prepare(config: PrepareConfig, run: StageRun) -> Result:
    """Decodes what the cache does not hold yet and writes down the table,
    the report and where the waveforms are."""
    source = find_data(config.data)
    cache_root = cache_folder(config.data)
    built = build_cache(
        source.audio_root,
        list(source.table["filename"]),
        cache_root=cache_root,
        format=source.format,
        workers=config.data.workers,
    )
    usable = usable_clips(source, built.clips)
    report = make_report(
        usable.table,
        usable.levels,
        title=f"{len(usable.table)} clips of {config.data.root}",
        clip_seconds=source.clip_seconds,
        class_names=source.classes,
        missing=source.missing,
        unreadable=usable.unreadable,
        notes=usable.notes,
    )
    data_set = UsedData(
        name=Path(config.data.root).stem,
        digest=digest(usable.table.to_csv(index=False)),
        table=usable.table,
        source=str(Path(config.data.root).absolute()),
        fold=f"{config.data.fold} of {config.data.folds} by {config.data.folds_by}" * bool(config.data.fold),
    )
    folder = run.folder / DATA
    write_data(folder, source, data_set, cache_root=cache_root)
    files = report_files(run.folder / "report", report, source, usable.table, built.waveforms)
    built.waveforms.flush()
    return Result(
        metrics={
            f"clips/{split}": int(count) for split, count in usable.table["split"].value_counts().items()
        }
        | {f"found/{finding.name.replace(' ', '_')}": len(finding.files) for finding in report.all_findings},
        files={DATA: folder, **files},
        tags={
            DATA_KIND: TO_PRETRAIN if source.to_pretrain else source.kind,
            DATA_DIGEST: data_set.digest,
            **fold_tag(data_set.fold),
        },
        data_sets=[data_set],
        note=as_markdown(report),
        summary=as_text(report),
    )


def usable_clips(source: FoundData, cached: pd.DataFrame) -> Usable:
    """Raises DataError for files that are no audio or have a wrong length, and for splits that are not apart.

    From published lists to pre-train on, where validation only chooses, what is not apart is left out.
    """
    table = source.table.assign(key=cached["key"].to_numpy())
    bad = (cached["problem"] != "").to_numpy()
    problems = [
        f"{name}: {problem}"
        for name, problem in zip(table["filename"][bad], cached["problem"][bad], strict=True)
    ]
    if not source.leave_out_unreadable:
        raise_problems(
            problems + wrong_lengths(source, cached[~bad], table["filename"][~bad]), of=str(source.audio_root)
        )
    table, cached = table[~bad].reset_index(drop=True), cached[~bad].reset_index(drop=True)
    levels = cached[["peak", "rms", "dc", "clipped"]].assign(
        seconds=cached["samples"] / source.format.sample_rate
    )
    notes = tuple(source.notes)
    if source.kind == SCENES_KIND and not source.to_pretrain:
        check_leaks(
            table, silent=is_silent(levels), cut_by_file=source.cut_by_file, source=str(source.audio_root)
        )
    else:
        known = validation_learnt(table)
        table, levels = table[~known].reset_index(drop=True), levels[~known].reset_index(drop=True)
        notes += (f"{known.sum()} validation clips left out whose audio or place is trained on",) * bool(
            known.any()
        )
    if table.empty:
        raise DataError(f"none of the {len(bad)} files of {source.audio_root} is readable as audio")
    return Usable(table, levels, tuple(problems), notes)


def validation_learnt(table: pd.DataFrame) -> NDArray[np.bool_]:
    """(clips,) validation clips whose audio, or whose place where one is told, training clips have too."""
    learnt = table[table["split"] == TRAIN]
    known = table["key"].isin(learnt["key"])
    if "location" in table:
        known |= table["location"].isin(learnt["location"]) & (table["location"] != "")
    return (known & (table["split"] == VALIDATION)).to_numpy()


def wrong_lengths(source: FoundData, cached: pd.DataFrame, names: pd.Series) -> list[str]:
    """Where every file should be one clip long."""
    if not source.exact_length:
        return []
    wrong = (cached["samples"] - source.format.clip_samples).abs() > LENGTH_TOLERANCE_SAMPLES
    found = (cached["samples"] / source.format.sample_rate)[wrong]
    return [
        f"{name}: {seconds:.3f} s long, expected {source.clip_seconds:.3f} s"
        for name, seconds in zip(names[wrong], found, strict=True)
    ]


def write_data(folder: Path, source: FoundData, data_set: UsedData, *, cache_root: Path) -> None:
    """The artifact by which later stages find the clips."""
    folder.mkdir(exist_ok=True)
    table = data_set.table
    write_table(folder / CLIPS, table)
    stored: dict[str, Any] = {
        "name": data_set.name,
        "kind": source.kind,
        "classes": source.classes,
        "devices": sorted(table["device"].unique()) if source.kind == SCENES_KIND else [],
        "audio_root": str(source.audio_root),
        "cache": str(cache_root),
        "format": asdict(source.format),
        "digest": data_set.digest,
        "fold": data_set.fold,
        "synthesised": is_demo(source.audio_root),
    }
    (folder / DATASET).write_text(json.dumps(stored, indent=1))


def report_files(
    folder: Path, report: DataReport, source: FoundData, table: pd.DataFrame, waveforms: WaveformCache
) -> dict[str, Path]:
    """The report as text, every name of every finding, and the pictures."""
    folder.mkdir(exist_ok=True)
    (folder / "report.txt").write_text(as_text(report))
    findings_table(report).to_csv(folder / FINDINGS, index=False)
    if source.kind == SCENES_KIND:
        rows = waveforms.rows_of(list(table["key"]))

        def read(places: NDArray[np.int64]) -> Tensor:
            return waveforms.read(rows[places])

        clips_figure(table, folder / "clips.png")
        mosaic_figure(table, read, folder / "log_mels.png", sample_rate=source.format.sample_rate)
    else:
        labels_figure(table, folder / "clips.png", class_names=source.classes)
    return {"report": folder}


PREPARE = Stage(
    "prepare",
    run=prepare,
    config=PrepareConfig,
    fetch=fetch,
    reads=data_digest,
    words=lambda config: [Path(config.data.root).stem],
    score=TRAINING_CLIPS,
    folds=OVER_FOLDS,
)


if __name__ == "__main__":
    PREPARE.main()
