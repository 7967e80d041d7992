"""Which data set a folder holds, and what its tables say of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from adaptf.audio.logmel import CLIP_RATE
from adaptf.data.cache.shards import CacheFormat
from adaptf.data.clips import TRAIN, VALIDATION, check_parts, gaps
from adaptf.data.sets.audioset import is_audioset, read_audioset
from adaptf.data.sets.cut_files import cut_files
from adaptf.data.sets.read_clips import Fold, audio_root, read_clips
from adaptf.errors import UserError
from adaptf.pipeline.artifacts import AUDIOSET_KIND, SCENES_KIND
from adaptf.pipeline.config import DataConfig

SCENE_CLIP_SECONDS = 1.0


@dataclass(frozen=True)
class FoundData:
    """A data set's clips with what their cache needs."""

    kind: str
    """scenes or audioset"""
    table: pd.DataFrame
    classes: tuple[str, ...]
    format: CacheFormat
    audio_root: Path
    exact_length: bool = False
    """Whether every file has the length of a clip, so that another one is a fault."""
    leave_out_unreadable: bool = False
    """Whether files that are no audio are normal, as they are among thousands of downloads."""
    cut_by_file: frozenset[str] = frozenset()
    """Scenes of which files were cut out of places that are trained on."""
    to_pretrain: bool = False
    """Whether they are scenes of a data set to pre-train on."""
    missing: tuple[str, ...] = ()
    notes: Sequence[str] = ()

    @property
    def clip_seconds(self) -> float:
        """Length of a cached clip."""
        return self.format.clip_samples / self.format.sample_rate


def find_data(config: DataConfig) -> FoundData:
    """The scenes or AudioSet, whichever the folder holds. Raises UserError for what can't be used."""
    root = Path(config.root).absolute()
    if config.root == "none" or not root.exists():
        raise UserError(
            f"data.root is '{config.root}', which does not exist: give the folder of TAU 2022 Mobile, of "
            "AudioSet, of CochlScene, or a CSV file with filename, scene, device, as in "
            "-P data.root=/data/TAU-2022"
        )
    return _audioset(root, config) if is_audioset(root) else _scenes(root, config)


def _scenes(root: Path, config: DataConfig) -> FoundData:
    clips = read_clips(
        root,
        scenes=config.scenes,
        train_split=config.train_split,
        challenge=config.challenge,
        validation_share=config.validation_share,
        test_share=config.test_share,
        seed=config.split_seed,
        fold=Fold(config.fold, config.folds, config.folds_by) if config.fold else None,
    )
    check_parts(clips.table, source=config.root)
    table, notes = clips.table, [*clips.notes, *gaps(clips.table, clips.scenes)]
    if clips.any_length:
        table, cut = cut_files(
            clips.table, audio_root(root), clip_seconds=SCENE_CLIP_SECONDS, workers=config.workers
        )
        notes += cut
    return FoundData(
        kind=SCENES_KIND,
        table=table,
        classes=clips.scenes,
        format=_cache_format(SCENE_CLIP_SECONDS, config),
        audio_root=audio_root(root),
        exact_length=not clips.any_length,
        cut_by_file=clips.cut_by_file,
        to_pretrain=clips.to_pretrain,
        notes=notes,
    )


def _audioset(root: Path, config: DataConfig) -> FoundData:
    if config.folds:
        raise UserError(
            f"data.folds is {config.folds}: AudioSet has no scenes of places that folds could be dealt of"
        )
    found = read_audioset(root, validation_share=config.validation_share, seed=config.split_seed)
    splits = np.where(found.validation, VALIDATION, TRAIN)
    return FoundData(
        kind=AUDIOSET_KIND,
        table=pd.DataFrame({"filename": found.filenames, "labels": found.labels, "split": splits}),
        classes=found.class_names,
        format=_cache_format(config.audioset_clip_seconds, config),
        audio_root=root,
        leave_out_unreadable=True,
        missing=found.missing,
    )


def _cache_format(clip_seconds: float, config: DataConfig) -> CacheFormat:
    """Of clips of this length."""
    return CacheFormat(CLIP_RATE, round(clip_seconds * CLIP_RATE), config.sample_type)
