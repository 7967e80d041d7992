"""What `prepare` leaves and the other stages read: the clip table, its waveforms, names and a digest."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from adaptf.data.cache.build import build_cache
from adaptf.data.cache.shards import CacheFormat
from adaptf.data.cache.waveforms import WaveformCache, open_cache
from adaptf.data.clip_set import ClipSet, clip_set, scene_clip_set
from adaptf.data.clips import TEST, TRAIN, UNKNOWN, VALIDATION, devices_of
from adaptf.data.errors import DataError
from adaptf.data.parquet import read_table
from adaptf.data.sources import CachedWaveforms, Sample
from adaptf.pipeline.artifacts import CLIPS, DATA, DATASET, SCENES_KIND
from adaptf.tracking.runs import UpstreamError, digest
from adaptf.tracking.stage_run import StageRun, UsedData


@dataclass(frozen=True)
class PreparedData:
    """A data set as a `prepare` run describes it."""

    kind: str
    """scenes or audioset"""
    table: pd.DataFrame
    """Clip table; of AudioSet the columns filename, labels, split;
    of both also key, the content in the cache."""
    classes: tuple[str, ...]
    devices: tuple[str, ...]
    """All device names of the data, to which batches point."""
    waveforms: WaveformCache
    digest: str
    synthesised: bool
    """Whether these are the demo's sounds, which every table has to say."""

    @property
    def training_devices(self) -> list[str]:
        """Device names of the training clips; AudioSet does not tell."""
        return devices_of(self.table) if self.kind == SCENES_KIND else [UNKNOWN]

    def clips(self, *splits: str, device: str | None = None, sample_seconds: float = 1.0) -> ClipSet:
        """The clips of a split, or of several, all of them or those of one device.

        Of AudioSet's longer clips a sample is a part: for training drawn anew each time, else the middle.
        """
        rows = self.table[self.table["split"].isin(splits)]
        if device is not None:
            rows = rows[rows["device"] == device]
        return self.clip_set(rows, splits[0], sample_seconds=sample_seconds)

    def clip_set(self, rows: pd.DataFrame, split: str, *, sample_seconds: float = 1.0) -> ClipSet:
        """Any rows of the table."""
        if self.kind == SCENES_KIND:
            return scene_clip_set(rows, self.cached(rows), scenes=self.classes, devices=self.devices)
        samples = round(sample_seconds * self.waveforms.format.sample_rate)
        return clip_set(
            tuple(rows["filename"]),
            self.cached(rows, Sample(samples, random=split == TRAIN)),
            targets=_label_targets(rows["labels"], len(self.classes)),
            devices=np.zeros(len(rows), dtype=np.int64),
        )

    def cached(self, rows: pd.DataFrame, sample: Sample | None = None) -> CachedWaveforms:
        """The waveforms of rows of the table, whole unless a sample of each is wanted."""
        sample = sample or Sample(self.waveforms.format.clip_samples)
        return CachedWaveforms(self.waveforms, self.waveforms.rows_of(list(rows["key"])), sample)

    @cached_property
    def learning_digest(self) -> str:
        """The same for each fold of the clips, and for any split that has the same test clips."""
        tested = (self.table["split"] == TEST).map(str)
        return digest(self.table.assign(split=tested).to_csv(index=False))

    def learning_rows(self) -> pd.DataFrame:
        """Training and validation clips: all that a teacher predicts."""
        return self.table[self.table["split"].isin([TRAIN, VALIDATION])]


def _label_targets(labels: pd.Series, classes: int) -> np.ndarray:
    """'3 17' -> a row with ones at 3 and 17; (clips, classes)."""
    targets = np.zeros((len(labels), classes), dtype=np.float32)
    places = labels.reset_index(drop=True).str.split().explode().dropna()
    targets[places.index, places.astype(int)] = 1
    return targets


def load_prepared(run: StageRun, prepare_run: str, *, kind: str | None) -> PreparedData:
    """The data set of a `prepare` run, noted as the run's input;
    its cache is made where this machine does not have it.

    Raises UpstreamError where it is not of the `kind`; None takes any.
    """
    data, described = _prepared_once(run, prepare_run, kind)
    run.log_input(described)
    return data


def look_at_prepared(run: StageRun, prepare_run: str, *, kind: str) -> PreparedData:
    """The same for a run that works on more than these data, which are not noted."""
    return _prepared_once(run, prepare_run, kind)[0]


def _prepared_once(run: StageRun, prepare_run: str, kind: str | None) -> tuple[PreparedData, UsedData]:
    return run.shared.once(("prepared", prepare_run, kind), lambda: _read_prepared(run, prepare_run, kind))


def load_tested(run: StageRun, prepare_run: str) -> PreparedData:
    """A data set of scenes with test clips. Raises DataError where there are none."""
    data = load_prepared(run, prepare_run, kind=SCENES_KIND)
    if not (data.table["split"] == TEST).any():
        raise DataError(
            f"the data of prepare run {prepare_run} has no test clips, of which evaluate and main make their "
            f"tables: prepare it with a data.test_share above 0, or give some clips the split 'test'. train, "
            f"distill, finetune and quantize need none and can be run one by one"
        )
    return data


def _read_prepared(run: StageRun, prepare_run: str, kind: str | None) -> tuple[PreparedData, UsedData]:
    folder = run.download(prepare_run, DATA)
    stored: dict[str, Any] = json.loads((folder / DATASET).read_text())
    if kind not in (None, stored["kind"]):
        raise UpstreamError(
            f"prepare run {prepare_run} holds data of kind '{stored['kind']}', '{kind}' is needed"
        )
    table = read_table(folder / CLIPS)
    data = PreparedData(
        kind=stored["kind"],
        table=table,
        classes=tuple(stored["classes"]),
        devices=tuple(stored["devices"]),
        waveforms=_waveforms(stored, table),
        digest=stored["digest"],
        synthesised=stored["synthesised"],
    )
    return data, UsedData(
        stored["name"], stored["digest"], table, stored["audio_root"], stored.get("fold", "")
    )


def _waveforms(stored: dict[str, Any], table: pd.DataFrame) -> WaveformCache:
    """The cache of this machine, completed where it lacks clips."""
    cache_root, root, format = (
        Path(stored["cache"]),
        Path(stored["audio_root"]),
        CacheFormat(**stored["format"]),
    )
    keys = list(table["key"])
    waveforms = open_cache(cache_root, format)
    if waveforms.holds(keys).all():
        return waveforms
    if not root.is_dir():
        raise DataError(
            f"neither the waveform cache {waveforms.folder} nor the data folder {root} is on this machine: "
            f"run `prepare` here with -P data.root=<folder> and name its run as prepare_run"
        )
    built = build_cache(root, list(table["filename"]), cache_root=cache_root, format=format)
    if list(built.clips["key"]) != keys:
        raise DataError(f"the files in {root} are not those that were prepared: run `prepare` again")
    built.waveforms.flush()
    return built.waveforms
