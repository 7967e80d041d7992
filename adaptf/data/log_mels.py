"""Log-mels of whole clip sets in memory: computed once, where every epoch and every training would compute them again."""

import copy
import hashlib
from collections.abc import Container, Hashable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from adaptf.audio.logmel import LogMel
from adaptf.data.batch import ClipBatch
from adaptf.data.cache.waveforms import WaveformCache
from adaptf.data.clip_set import ClipSet
from adaptf.data.device_memory import OnDevice, has_room
from adaptf.data.files import blocks_of

CLIPS_AT_ONCE = 256
FLOAT_BYTES = 4


class LogMelTables:
    """Log-mels by what they were computed from, up to a limit, beyond which those asked for longest ago go first."""

    def __init__(self) -> None:
        self._tables: dict[Hashable, Tensor] = {}  # the one asked for last stands last

    def given_to(
        self,
        sets: Sequence[ClipSet],
        device: torch.device,
        *,
        logmel: LogMel,
        limit_bytes: float,
        on_device: OnDevice = "auto",
    ) -> list[ClipSet]:
        """The sets with their log-mels in the memory of `device`, the first ones where not all of them fit together.

        On a GPU `on_device` says whether anything may be kept there, and `auto` keeps what takes half of its free memory.
        Clips stay as they are where parts of them are drawn at random or they are in no waveform cache.
        """
        given: dict[Hashable, ClipSet] = {}
        found = []
        for clips in sets:
            key = _key(clips, logmel, device)
            size = len(clips) * logmel.bands * logmel.frames(clips.samples) * FLOAT_BYTES
            left = limit_bytes - sum(self._tables[other].nbytes for other in given if other != key)
            room = key in self._tables or device.type == "cpu" or has_room(size, device, on_device)
            if size <= left and room and not clips.random_part and isinstance(clips.waveforms, WaveformCache):
                table = self._tables.pop(key) if key in self._tables else None
                self._drop_oldest(left - size, keep=given)
                self._tables[key] = log_mels(clips, logmel, device) if table is None else table
                clips = given[key] = replace(clips, log_mels=self._tables[key])
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
    table = torch.empty(len(clips), 1, logmel.bands, logmel.frames(clips.samples), device=device)
    first = 0
    for batch in with_log_mels(clips, logmel, device):
        table[first : first + len(batch.x)] = batch.x
        first += len(batch.x)
    return table


def with_log_mels(clips: ClipSet, logmel: LogMel, device: torch.device) -> Iterator[ClipBatch]:
    """The clips in their order, as batches that hold float32 log-mels (batch, 1, bands, frames) on the device."""
    logmel = copy.deepcopy(logmel).float().to(device)
    with tqdm(None, "log-mels", len(clips), unit="clip", delay=3, mininterval=1) as bar:
        for rows in blocks_of(range(len(clips)), CLIPS_AT_ONCE):
            batch = clips[rows]
            with torch.no_grad():
                heard = logmel(batch.x.to(device))
            yield batch._replace(x=heard, has_features=True)
            bar.update(len(rows))


def _key(clips: ClipSet, logmel: LogMel, device: torch.device) -> Hashable:
    """All that decides the values of a table."""
    folder = clips.waveforms.folder if isinstance(clips.waveforms, WaveformCache) else None
    rows = hashlib.sha256(clips.cache_rows.tobytes()).digest()
    return folder, clips.waveforms.format, clips.samples, rows, logmel.settings, str(device)
