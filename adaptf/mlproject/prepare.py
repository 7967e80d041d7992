"""Stage `prepare`: checks every file of a data set and decodes it into the waveform cache."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from adaptf.data.audioset import AudioSetClips, is_audioset, read_audioset
from adaptf.data.cache import CacheSettings, build_cache
from adaptf.data.clips import TRAIN, VALIDATION
from adaptf.data.demo import is_demo
from adaptf.data.hashes import file_hashes
from adaptf.data.read_clips import audio_root, read_clips
from adaptf.errors import UserError
from adaptf.evaluation.figures import clip_counts_figure
from adaptf.evaluation.tables import as_markdown
from adaptf.mlproject.config import DataConfig
from adaptf.mlproject.dataset import AUDIOSET_KIND, CLIPS, DATASET, SCENES_KIND
from adaptf.mlproject.stage import run_stage
from adaptf.tracking.runs import Result, StageRun, digest

SAMPLE_RATE = 32000
SCENE_CLIP_SECONDS = 1.0
DATA_KIND = "adaptf.data"
"""Tag by which later stages find the newest run for scenes or for AudioSet."""


@dataclass(frozen=True)
class PrepareConfig:
    """Checks a data set and builds its waveform cache."""

    data: DataConfig = DataConfig()


@dataclass(frozen=True)
class Clips:
    """A data set's table with what its cache needs."""

    kind: str
    table: pd.DataFrame
    classes: tuple[str, ...]
    devices: tuple[str, ...]
    settings: CacheSettings
    audio_root: Path
    missing: tuple[str, ...] = ()


def data_digest(config: PrepareConfig) -> str:
    """Digest of the table and of the content of every file. Raises UserError for what can't be used."""
    clips = read_data(config.data)
    hashes = file_hashes(
        clips.audio_root,
        list(clips.table["filename"]),
        memory_folder=Path(config.data.cache),
        threads=config.data.threads,
    )
    return digest(clips.table.to_csv(index=False), *hashes["sha256"])


def prepare(config: PrepareConfig, run: StageRun) -> Result:
    """Decodes what the cache does not hold yet and writes down the table, the counts and where the waveforms are."""
    clips = read_data(config.data)
    cache_root = Path(config.data.cache).absolute()
    waveforms = build_cache(
        clips.audio_root,
        list(clips.table["filename"]),
        cache_root=cache_root,
        settings=clips.settings,
        threads=config.data.threads,
    )
    folder = run.folder / "data"
    folder.mkdir(exist_ok=True)
    clips.table.to_csv(folder / CLIPS, index=False)
    stored: dict[str, Any] = {
        "kind": clips.kind,
        "classes": clips.classes,
        "devices": clips.devices,
        "audio_root": str(clips.audio_root),
        "cache": str(cache_root),
        "cache_digest": waveforms.digest,
        "settings": asdict(clips.settings),
        "digest": digest(waveforms.digest, clips.table.to_csv(index=False)),
        "missing": clips.missing,
        "synthesised": is_demo(Path(config.data.root)),
    }
    (folder / DATASET).write_text(json.dumps(stored, indent=1))
    counts = count_clips(clips)
    figure = clip_counts_figure(counts, run.folder / "clips.png")
    title = f"{len(clips.table)} clips of {config.data.root}"
    missing = f"\n\n{len(clips.missing)} clips of the table have no file and are left out." if clips.missing else ""
    return Result(
        metrics={f"clips/{split}": int(count) for split, count in clips.table["split"].value_counts().items()},
        files={"data": folder, "clips.png": figure},
        tags={DATA_KIND: clips.kind, "adaptf.digest": stored["digest"]},
        note=f"**{title}**\n\n{as_markdown(counts)}{missing}",
        summary=f"{title}\n{counts.to_string()}{missing}",
    )


def read_data(config: DataConfig) -> Clips:
    """The table of the scenes or of AudioSet, whichever the folder holds."""
    root = Path(config.root).absolute()
    if config.root == "none" or not root.exists():
        raise UserError(
            f"data.root is '{config.root}', which does not exist: give the folder of TAU 2022 Mobile, of AudioSet, or a CSV "
            "file with filename, scene, device, as in -P data.root=/data/TAU-2022"
        )
    if is_audioset(root):
        return _audioset(read_audioset(root, validation_share=config.validation_share, seed=config.split_seed), root, config)
    table = read_clips(
        root,
        scenes=config.scenes,
        validation_share=config.validation_share,
        test_share=config.test_share,
        seed=config.split_seed,
    )
    return Clips(
        kind=SCENES_KIND,
        table=table,
        classes=config.scenes,
        devices=tuple(sorted(table["device"].unique())),
        settings=_settings(SCENE_CLIP_SECONDS, exact=True),
        audio_root=audio_root(root),
    )


def _audioset(found: AudioSetClips, root: Path, config: DataConfig) -> Clips:
    labels = [" ".join(map(str, np.flatnonzero(target))) for target in found.targets]
    splits = np.where(found.validation, VALIDATION, TRAIN)
    return Clips(
        kind=AUDIOSET_KIND,
        table=pd.DataFrame({"filename": found.filenames, "labels": labels, "split": splits}),
        classes=found.class_names,
        devices=(),
        settings=_settings(config.audioset_clip_seconds, exact=False),
        audio_root=root,
        missing=found.missing,
    )


def _settings(clip_seconds: float, *, exact: bool) -> CacheSettings:
    samples = round(clip_seconds * SAMPLE_RATE)
    return CacheSettings(sample_rate=SAMPLE_RATE, clip_samples=samples, length="exact" if exact else "pad_or_cut")


def count_clips(clips: Clips) -> pd.DataFrame:
    """Clips per split (columns) and device or, for AudioSet, in all (rows)."""
    rows = clips.table["device"] if clips.kind == SCENES_KIND else pd.Series("clips", index=clips.table.index)
    order = [split for split in ("train", "validation", "test") if (clips.table["split"] == split).any()]
    return pd.crosstab(rows.rename("device"), clips.table["split"].rename("split"))[order]


if __name__ == "__main__":
    run_stage(prepare, PrepareConfig, inputs=data_digest)
