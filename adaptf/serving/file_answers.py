"""Files -> answers: each is cut into clips, which the networks of its device answer, and the mean over its
clips is the file's."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from adaptf.audio.logmel import CLIP_RATE
from adaptf.data.cuts import padded_clips
from adaptf.data.decode import AudioError, Resampler, Waveform
from adaptf.data.errors import DataError
from adaptf.files import write_atomically
from adaptf.names import find_file
from adaptf.serving.bundle import Bundle, read_bundle, warn_of_slower_forms

ANSWER_COLUMNS = ["filename", "scene", "probability", "device_asked", "device_used", "version_used"]
"""A column per scene follows."""
CLIP_SAMPLES = CLIP_RATE
"""Of the clips that files are cut into: a second."""


class Clip(NamedTuple):
    """A second of a file."""

    row: int
    """Of the file in its part of the table."""
    filename: str
    device: str
    waveform: Waveform
    """(CLIP_SAMPLES,)"""


class Answers(NamedTuple):
    """To some clips."""

    used: list[tuple[str, str]]
    """By clip the device whose model answered, and that model's version."""
    probabilities: NDArray[np.float64]
    """(clips, scenes)"""


class Asked(Protocol):
    """Who answers clips."""

    @property
    def scenes(self) -> Sequence[str]: ...

    @property
    def clips_at_once(self) -> int: ...

    def answer(self, clips: Sequence[Clip]) -> Answers: ...


def write_answers(part: Path, rows: pd.DataFrame, *, root: Path, who: Callable[[], Asked]) -> int:
    """Writes a CSV file with the answers to files, all of it or nothing, and says how many they are.
    `who` is called in the process that works."""
    answers = answer_files(rows, root, who())
    write_atomically(part, answers.to_csv(index=False, float_format="%.9g").encode())
    return len(answers)


def answer_files(rows: pd.DataFrame, root: Path, asked: Asked) -> pd.DataFrame:
    """ANSWER_COLUMNS, and each scene's probability, for every row of filename and device; some clips are in
    memory at a time. Raises DataError that names the file at fault."""
    sums, clips_of = np.zeros((len(rows), len(asked.scenes))), np.zeros((len(rows), 1))
    used = [("", "")] * len(rows)
    clips = _cut_into_clips(rows, root)
    while some := list(islice(clips, asked.clips_at_once)):
        answers, of_rows = asked.answer(some), [clip.row for clip in some]
        np.add.at(sums, of_rows, answers.probabilities)
        np.add.at(clips_of, of_rows, 1)
        for row, model in zip(of_rows, answers.used, strict=True):
            used[row] = model
    return _table(rows, used, sums / clips_of, asked.scenes)


def _table(
    rows: pd.DataFrame,
    used: Sequence[tuple[str, str]],
    probabilities: NDArray[np.float64],
    scenes: Sequence[str],
) -> pd.DataFrame:
    devices, versions = zip(*used, strict=True)
    columns = (
        rows["filename"].to_numpy(),
        np.array(scenes)[probabilities.argmax(axis=1)],
        probabilities.max(axis=1),
        rows["device"].to_numpy(),
        devices,
        versions,
    )
    of_scenes = dict(zip(scenes, probabilities.T, strict=True))
    return pd.DataFrame(dict(zip(ANSWER_COLUMNS, columns, strict=True)) | of_scenes)


def _cut_into_clips(rows: pd.DataFrame, root: Path) -> Iterator[Clip]:
    """Files of any length, rate, format and number of channels as clips. Raises DataError for a file that
    changed meanwhile."""
    resample = Resampler(CLIP_RATE)
    for row, (name, device) in enumerate(zip(rows["filename"], rows["device"], strict=True)):
        try:
            for clip in padded_clips(find_file(root, name), resample, clip_samples=CLIP_SAMPLES):
                yield Clip(row, name, device, clip)
        except AudioError as error:
            raise DataError(f"{name}: {error}") from error
        except MemoryError as error:
            raise DataError(f"{name}: memory is too short to decode it") from error


@dataclass(frozen=True)
class ByNetworks:
    """The networks of a bundle, in this process."""

    bundle: Bundle
    clips_at_once = 16

    @property
    def scenes(self) -> Sequence[str]:
        return self.bundle.scenes

    @torch.inference_mode()
    def answer(self, clips: Sequence[Clip]) -> Answers:
        """What a router with this bundle answers."""
        log_mels = self.bundle.log_mel(torch.from_numpy(np.stack([clip.waveform for clip in clips])))
        devices = [self.bundle.device_used(clip.device) for clip in clips]
        logits = torch.empty(len(clips), len(self.scenes))
        for device in set(devices):
            places = [place for place, used in enumerate(devices) if used == device]
            logits[places] = self.bundle.models[device].network(log_mels[places])
        used = [(device, self.bundle.models[device].version) for device in devices]
        return Answers(used, logits.double().softmax(dim=1).numpy())


def by_networks(folder: Path) -> ByNetworks:
    """Those of the bundle in a folder. Raises BundleError where it is unfit."""
    bundle = read_bundle(folder)
    warn_of_slower_forms(bundle)
    return ByNetworks(bundle)


@lru_cache(maxsize=1)
def by_networks_on_one_core(folder: Path) -> ByNetworks:
    """The same for a process that has others beside it, once and for all."""
    torch.set_num_threads(1)
    return by_networks(folder)
