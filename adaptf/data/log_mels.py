"""Log-mels of whole clip sets in memory:
computed once, where every epoch and every training would compute them again."""

import copy
import hashlib
from collections.abc import Callable, Container, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from adaptf.audio.logmel import LogMel
from adaptf.data.batch import FeatureBatch, with_features
from adaptf.data.clip_set import ClipSet
from adaptf.data.loading import Loading, has_room
from adaptf.data.sources import FLOAT_BYTES, CachedWaveforms, HeldFeatures
from adaptf.files import blocks_of

Keep = Callable[[Sequence[ClipSet], torch.device], Sequence[ClipSet]]
"""From clip sets to the same sets, with log-mels in the memory of the device as far as there is room."""
_CLIPS_AT_ONCE = 256
_BYTES_PER_GB = 1e9


class LogMelTables:
    """Log-mels by what they were computed from, up to a limit,
    beyond which those asked for longest ago go first."""

    def __init__(self) -> None:
        self._tables: dict[Hashable, Tensor] = {}  # the one asked for last stands last

    def keeper(self, features: nn.Module, loading: Loading) -> Keep:
        """What gives clip sets the log-mels of these features;
        where they are others, sets stay as they are."""
        if not isinstance(features, LogMel):
            return lambda sets, device: sets
        return partial(self.given_to, logmel=features, loading=loading)

    def given_to(
        self, sets: Sequence[ClipSet], device: torch.device, *, logmel: LogMel, loading: Loading
    ) -> list[ClipSet]:
        """The sets with their log-mels in the memory of `device`,
        the first ones where not all of them fit together.

        On a GPU `loading.keep_on_device` says whether anything may be kept there, and `auto` keeps what takes
        half of its free memory. Clips stay as they are where parts of them are drawn at random or they are in
        no waveform cache.
        """
        given: set[Hashable] = set()
        found = []
        for clips in sets:
            key, size = _key(clips, logmel, device), _table_bytes(clips, logmel)
            left = loading.log_mel_gb * _BYTES_PER_GB - sum(
                self._tables[other].nbytes for other in given - {key}
            )
            room = (
                key in self._tables or device.type == "cpu" or has_room(size, device, loading.keep_on_device)
            )
            if key is not None and size <= left and room:
                table = self._tables.pop(key, None)
                self._drop_oldest(left - size, keep=given)
                self._tables[key] = log_mels(clips, logmel, device) if table is None else table
                given.add(key)
                clips = replace(clips, source=HeldFeatures(self._tables[key]))
            found.append(clips)
        return found

    def _drop_oldest(self, limit_bytes: float, *, keep: Container[Hashable]) -> None:
        """Until those that need not be kept are within the limit."""
        others = [key for key in self._tables if key not in keep]
        taken = sum(self._tables[key].nbytes for key in others)
        for key in others:
            if taken > limit_bytes:
                taken -= self._tables.pop(key).nbytes


def log_mels(clips: ClipSet, logmel: LogMel, device: torch.device) -> Tensor:
    """float32 (clips, 1, bands, frames) on the device."""
    table = torch.empty(len(clips), 1, logmel.bands, _frames(clips, logmel), device=device)
    first = 0
    for batch in with_log_mels(clips, logmel, device):
        table[first : first + len(batch.features)] = batch.features
        first += len(batch.features)
    return table


def with_log_mels(clips: ClipSet, logmel: LogMel, device: torch.device) -> Iterator[FeatureBatch]:
    """Clips with waveforms in their order,
    as batches of float32 log-mels (batch, 1, bands, frames) on the device."""
    logmel = copy.deepcopy(logmel).float().to(device)
    with tqdm(None, "log-mels", len(clips), unit="clip", delay=3, mininterval=1) as bar:
        for rows in blocks_of(range(len(clips)), _CLIPS_AT_ONCE):
            yield with_features(clips[rows], lambda waveforms: logmel(waveforms.to(device)))
            bar.update(len(rows))


def _frames(clips: ClipSet, logmel: LogMel) -> int:
    """Of clips with waveforms."""
    return logmel.frames(clips.source.clip_bytes // FLOAT_BYTES)


def _table_bytes(clips: ClipSet, logmel: LogMel) -> int:
    return len(clips) * logmel.bands * _frames(clips, logmel) * FLOAT_BYTES


def _key(clips: ClipSet, logmel: LogMel, device: torch.device) -> Hashable:
    """All that decides the values of a table; None of clips for which there should be none."""
    source = clips.source
    if not isinstance(source, CachedWaveforms) or source.sample.random:
        return None
    rows = hashlib.sha256(source.cache_rows.tobytes()).digest()
    return source.cache.folder, source.cache.format, source.sample.samples, rows, logmel.settings, str(device)
