"""Decoding of one audio file or byte stream: mono, float32, one sample rate."""

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from adaptf.data.names import missing_file

Waveform = NDArray[np.float32]

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3"})
"""Of files that libsndfile reads, in small letters."""

PCM_16_STEP = np.float32(2**-15)

MAX_SAMPLES = 2**31
"""Thirteen hours at 44.1 kHz. A damaged header claims any length, and what it claims is allocated."""

UNKNOWN_FRAMES = 2**63 - 1
"""libsndfile's number of frames where a header holds none."""

RATES = range(1000, 768_001)
"""In Hz. A damaged header claims any rate; resampling would make nothing of the samples, or more than fits in memory."""

LARGEST_SAMPLE = 2.0**31
"""That of 32-bit integers written as float. Beyond it are damaged samples, which would overflow when they are summed."""


class AudioError(ValueError):
    """The bytes are no audio that libsndfile can read, or hold no samples."""


def decode(source: Path | BinaryIO, *, sample_rate: int) -> Waveform:
    """Samples (samples,) in [-1, 1] at `sample_rate`: channels averaged, resampled by soxr in its high quality.

    Raises AudioError, with a message without the file's name, for what is not readable audio.
    """
    return Resampler(sample_rate)(*read_mono(source))


def seconds_of(source: Path) -> float:
    """Length of a file by its header. Raises AudioError as `decode` does, or where the header does not tell."""
    try:
        header = soundfile.info(source)
    except (soundfile.SoundFileError, TypeError) as error:
        raise _unreadable(error) from error
    _check_header(header)
    return float(header.frames / header.samplerate)


def seconds_or_problem(path: Path) -> float | str:
    """Length of a file by its header, or why the file can't be used."""
    if not os.path.isfile(path):
        return missing_file(path)
    try:
        return seconds_of(path)
    except AudioError as error:
        return str(error)


class Resampler:
    """Resampling of one clip after the other by one thread; the filters of a rate are made once."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._streams: dict[int, soxr.ResampleStream] = {}

    def __call__(self, audio: Waveform, rate: int) -> Waveform:
        """(samples,) at `rate` -> (samples,) at the resampler's rate. Raises AudioError where none is left."""
        if rate == self.sample_rate:
            return audio
        if rate not in self._streams:
            self._streams[rate] = soxr.ResampleStream(rate, self.sample_rate, 1, dtype="float32", quality="HQ")
        stream = self._streams[rate]
        stream.clear()
        resampled: Waveform = stream.resample_chunk(audio, last=True)
        if not len(resampled):
            raise AudioError(f"{len(audio)} samples at {rate} Hz are less than one at {self.sample_rate} Hz")
        return resampled


def read_mono(source: Path | BinaryIO) -> tuple[Waveform, int]:
    """Samples (samples,) with channels averaged, and their rate in Hz. Raises AudioError as `decode` does."""
    try:
        with soundfile.SoundFile(source) as file:
            _check_header(file)
            audio, rate = _read_samples(file), int(file.samplerate)
    except (soundfile.SoundFileError, TypeError) as error:
        raise _unreadable(error) from error
    if not len(audio):
        raise AudioError("the audio has no samples")
    return (audio.mean(axis=1, dtype=np.float32) if audio.ndim > 1 else audio), rate


def _check_header(header: Any) -> None:
    """`header`: with the rate, the frames and the channels that the file claims to have."""
    if header.samplerate not in RATES:
        raise AudioError(f"its header claims {header.samplerate} samples a second, {RATES[0]} to {RATES[-1]} are expected")
    if header.frames == UNKNOWN_FRAMES:
        raise AudioError("its header does not say how long it is, as in a stream: write it to a file again")
    if header.frames * header.channels > MAX_SAMPLES:
        raise AudioError(f"its header claims {header.frames / header.samplerate / 3600:.0f} hours: cut it into shorter files")


def _read_samples(file: soundfile.SoundFile) -> Waveform:
    """(samples,) or (samples, channels). 16-bit samples are scaled here: the same values in two thirds of the time."""
    if file.subtype == "PCM_16":
        return np.multiply(file.read(dtype="int16"), PCM_16_STEP, dtype=np.float32)
    audio = file.read(dtype="float32")
    if not (np.abs(audio) <= LARGEST_SAMPLE).all():
        raise AudioError("the audio holds values that are not numbers, or far beyond full scale, which is 1")
    return audio


def _unreadable(error: Exception) -> AudioError:
    return AudioError(f"not readable as audio ({error_text(error)}); WAV, FLAC, OGG and MP3 are")


def error_text(error: Exception) -> str:
    """libsndfile's own words, without the file name in front of them."""
    return getattr(error, "error_string", str(error)).strip().rstrip(".")
