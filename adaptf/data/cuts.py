"""A file as consecutive clips, decoded in blocks:
however long it is, some seconds of it are in memory at a time."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from adaptf.data.decode import AudioError, Resampler, Waveform, mono_blocks, opened
from adaptf.data.parts import parts_in
from adaptf.names import missing_file


class Cut(NamedTuple):
    """A part of a file."""

    clip: Waveform
    """Of the length asked for, at the end shorter."""
    source: Waveform
    """The same time as it was recorded, at the file's rate."""


def cut_file(path: Path, resample: Resampler, *, clip_samples: int) -> Iterator[Cut]:
    """All of a file as consecutive parts, one at least; the last may be shorter.

    Raises AudioError as `decode` does, at the latest after the last part.
    """
    heard, made, begin, rate = _Window(), _Window(), 0, 0
    for block, rate, resampled in _resampled_blocks(path, resample):
        heard.add(block)
        made.add(resampled)
        while made.end - begin > clip_samples:  # not yet the last
            yield _cut(heard, made, begin, clip_samples, rate / resample.sample_rate)
            begin += clip_samples
    if not made.end:
        raise AudioError(f"{heard.end} samples at {rate} Hz are less than one at {resample.sample_rate} Hz")
    yield _cut(heard, made, begin, clip_samples, rate / resample.sample_rate)


def padded_clips(path: Path, resample: Resampler, *, clip_samples: int) -> Iterator[Waveform]:
    """All of a file as consecutive clips (clip_samples,), one at least. At its end half a clip or more is
    padded with zeros, less dropped (`parts_in`). Raises AudioError as `cut_file` does."""
    for number, cut in enumerate(cut_file(path, resample, clip_samples=clip_samples)):
        if number < parts_in(number * clip_samples + len(cut.clip), clip_samples):
            missing = clip_samples - len(cut.clip)
            yield np.pad(cut.clip, (0, missing)) if missing else cut.clip


def _resampled_blocks(path: Path, resample: Resampler) -> Iterator[tuple[Waveform, int, Waveform]]:
    """Blocks, their rate, and what the resampler gives meanwhile;
    at the end an empty block, and what it still held."""
    stream, rate, nothing = None, 0, np.zeros(0, np.float32)
    for block, rate in mono_blocks(path):
        if rate == resample.sample_rate:
            yield block, rate, block
        else:
            stream = stream or resample.begin(rate)
            yield block, rate, stream.resample_chunk(block)
    if stream:
        yield nothing, rate, stream.resample_chunk(nothing, last=True)


class _Window:
    """The last samples of a waveform, by their places in it."""

    def __init__(self) -> None:
        self.begin, self.kept = 0, np.zeros(0, np.float32)

    @property
    def end(self) -> int:
        """How many samples have come."""
        return self.begin + len(self.kept)

    def add(self, samples: Waveform) -> None:
        """Behind the others."""
        self.kept = np.concatenate([self.kept, samples]) if len(self.kept) else samples

    def take(self, begin: int, end: int) -> Waveform:
        """Those from `begin` to `end`, one at least; what stands before them is given up."""
        begin = min(begin, self.end - 1)
        self.begin, self.kept = begin, self.kept[begin - self.begin :]
        return self.kept[: end - begin]


def _cut(heard: _Window, made: _Window, begin: int, clip_samples: int, ratio: float) -> Cut:
    end = begin + clip_samples
    return Cut(made.take(begin, end), heard.take(round(begin * ratio), round(end * ratio)))


def unfit(path: Path, *, sample_rate: int, max_peak: float) -> str:
    """Why a file does not give samples up to `max_peak`, or ''.
    It is decoded, unless it holds plain integers."""
    if not os.path.isfile(path):
        return missing_file(path)
    try:
        with opened(path) as file:
            plain = file.subtype.startswith("PCM_") and file.format != "FLAC"
            if plain and file.frames * sample_rate >= file.samplerate:
                return ""
        cuts = cut_file(path, Resampler(sample_rate), clip_samples=sample_rate)
        peak = max(float(np.abs(cut.clip).max()) for cut in cuts)
    except AudioError as error:
        return str(error)
    return f"it has samples up to {peak:g}, full scale is 1" if peak > max_peak else ""
