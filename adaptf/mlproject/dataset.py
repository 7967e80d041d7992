"""What `prepare` leaves and the other stages read: the clip table, its waveforms, names and a digest."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from adaptf.data.cache import CacheSettings, WaveformCache, build_cache, open_cache
from adaptf.data.clip_set import ClipSet, clip_set, scene_clip_set
from adaptf.data.clips import TRAIN, VALIDATION
from adaptf.data.errors import DataError
from adaptf.tracking.runs import StageRun, UpstreamError

DATASET, CLIPS = "dataset.json", "clips.csv"
SCENES_KIND, AUDIOSET_KIND = "scenes", "audioset"


@dataclass(frozen=True)
class PreparedData:
    """A data set as a `prepare` run describes it."""

    kind: str
    """scenes or audioset"""
    table: pd.DataFrame
    """Clip table; of AudioSet the columns filename, labels, split."""
    classes: tuple[str, ...]
    devices: tuple[str, ...]
    """All device names of the data, to which batches point."""
    waveforms: WaveformCache
    digest: str
    synthesised: bool
    """Whether these are the demo's sounds, which every table has to say."""

    def clips(self, split: str, *, device: str | None = None) -> ClipSet:
        """The clips of a split, all of them or those of one device."""
        rows = self.table[self.table["split"] == split]
        if device is not None:
            rows = rows[rows["device"] == device]
        return self.clip_set(rows, split)

    def clip_set(self, rows: pd.DataFrame, split: str) -> ClipSet:
        """Any rows of the table."""
        if self.kind == SCENES_KIND:
            return scene_clip_set(rows, self.waveforms, scenes=self.classes, devices=self.devices)
        return clip_set(
            list(rows["filename"]),
            self.waveforms,
            targets=label_targets(rows["labels"], len(self.classes)),
            devices=np.zeros(len(rows), dtype=np.int64),
            samples=self.waveforms.settings.sample_rate,
            random_part=split == TRAIN,
        )

    def learning_rows(self) -> pd.DataFrame:
        """Training and validation clips: all that a teacher predicts."""
        return self.table[self.table["split"].isin([TRAIN, VALIDATION])]


def label_targets(labels: pd.Series, classes: int) -> np.ndarray:
    """'3 17' -> a row with ones at 3 and 17; (clips, classes)."""
    targets = np.zeros((len(labels), classes), dtype=np.float32)
    for row, places in enumerate(labels):
        targets[row, [int(place) for place in str(places).split()]] = 1
    return targets


def load_prepared(run: StageRun, prepare_run: str, *, kind: str) -> PreparedData:
    """The data set of a `prepare` run; its cache is made anew where this machine does not have it."""
    folder = run.download(prepare_run, "data")
    stored: dict[str, Any] = json.loads((folder / DATASET).read_text())
    if stored["kind"] != kind:
        raise UpstreamError(f"prepare run {prepare_run} holds data of kind '{stored['kind']}', '{kind}' is needed")
    table = pd.read_csv(folder / CLIPS, dtype=str, keep_default_na=False)
    return PreparedData(
        kind=kind,
        table=table,
        classes=tuple(stored["classes"]),
        devices=tuple(stored["devices"]),
        waveforms=_waveforms(stored, table),
        digest=stored["digest"],
        synthesised=stored["synthesised"],
    )


def _waveforms(stored: dict[str, Any], table: pd.DataFrame) -> WaveformCache:
    cache_root, root = Path(stored["cache"]), Path(stored["audio_root"])
    if (cache_root / stored["cache_digest"]).is_dir():
        return open_cache(cache_root / stored["cache_digest"])
    if not root.is_dir():
        raise DataError(
            f"neither the waveform cache {cache_root / stored['cache_digest']} nor the data folder {root} is on this machine: "
            "run `prepare` here with -P data.root=<folder> and name its run as prepare_run"
        )
    waveforms = build_cache(root, list(table["filename"]), cache_root=cache_root, settings=CacheSettings(**stored["settings"]))
    if waveforms.digest != stored["cache_digest"]:
        raise DataError(f"the files in {root} are not those that were prepared: run `prepare` again")
    return waveforms
