"""Decoding of one audio file or byte stream: mono, float32, one sample rate."""

import math
import mmap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from adaptf.data.joined import BEGINS, files_in
from adaptf.data.mp3 import Mp3Error, mp3_blocks

Waveform = NDArray[np.float32]

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3"})
"""Of files that libsndfile reads, in small letters."""

_PCM_16_STEP = np.float32(2**-15)

_MAX_SAMPLES = 2**31
"""Thirteen hours at 44.1 kHz. A damaged header claims any length, and what it claims is allocated."""

UNKNOWN_FRAMES = 2**63 - 1
"""libsndfile's number of frames where a header holds none."""

_MAX_SECONDS = _MAX_SAMPLES / 48000
"""Of an MP3, whose length is known when it is decoded."""

GUESSING = ("MP3", "OGG")
"""Formats whose headers do not hold their length: libsndfile guesses it, or reads it off the last page."""

_BLOCK_VALUES = 2**18
"""Of all channels together, decoded at a time."""

_RATES = range(1000, 768_001)
"""In Hz. A damaged header claims any rate;
resampling would make nothing of the samples, or more than fits in memory."""

_LARGEST_SAMPLE = 2.0**31
"""That of 32-bit integers written as float.
Beyond it are damaged samples, which would overflow when they are summed."""


_NO_SAMPLES = "the audio has no samples"


class AudioError(ValueError):
    """The bytes are no audio that libsndfile can read, or hold no samples."""


def decode(source: Path | BinaryIO, *, sample_rate: int) -> Waveform:
    """Samples (samples,) in [-1, 1] at `sample_rate`:
    channels averaged, resampled by soxr in its high quality.

    Raises AudioError, with a message without the file's name, for what is not readable audio.
    """
    return Resampler(sample_rate)(*read_mono(source))


def seconds_of(source: Path | BinaryIO, *, max_seconds: float = math.inf) -> float:
    """Length of a file: by its header, or by decoding where headers guess.
    Of longer audio any above `max_seconds`.

    Raises AudioError as `decode` does, or where the header does not tell.
    """
    with opened(source) as file:
        if file.format not in GUESSING and not _joined(source, file):
            if not file.frames:
                raise AudioError(_NO_SAMPLES)
            return float(file.frames / file.samplerate)
    lengths = [(len(block), rate) for block, rate in mono_blocks(source, max_seconds)]
    return sum(samples for samples, _ in lengths) / lengths[0][1]


class Resampler:
    """Resampling of one clip after the other by one thread; the filters of a rate are made once."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._streams: dict[int, soxr.ResampleStream] = {}

    def __call__(self, audio: Waveform, rate: int) -> Waveform:
        """(samples,) at `rate` -> (samples,) at the resampler's rate.
        Raises AudioError where none is left."""
        if rate == self.sample_rate:
            return audio
        resampled: Waveform = soxr.resample(audio, rate, self.sample_rate, quality="HQ")
        if not len(resampled):
            raise AudioError(f"{len(audio)} samples at {rate} Hz are less than one at {self.sample_rate} Hz")
        return resampled

    def begin(self, rate: int) -> soxr.ResampleStream:
        """For a waveform that comes in blocks: they give the same samples as all at once."""
        if rate not in self._streams:
            self._streams[rate] = soxr.ResampleStream(
                rate, self.sample_rate, 1, dtype="float32", quality="HQ"
            )
        self._streams[rate].clear()
        return self._streams[rate]


def read_mono(source: Path | BinaryIO, *, max_seconds: float = math.inf) -> tuple[Waveform, int]:
    """Samples (samples,) with channels averaged, and their rate in Hz.
    Of longer audio a little more than `max_seconds`.

    Raises AudioError as `decode` does.
    """
    blocks = list(mono_blocks(source, max_seconds))
    return blocks[0][0] if len(blocks) == 1 else np.concatenate([block for block, _ in blocks]), blocks[0][1]


def mono_blocks(source: Path | BinaryIO, max_seconds: float = math.inf) -> Iterator[tuple[Waveform, int]]:
    """The same in blocks, one at least."""
    samples, rates = 0, set()
    with opened(source) as file:
        for block, rate in _blocks(source, file, max_seconds):
            samples += len(block)
            rates.add(rate)
            if len(rates) > 1:
                told = " and ".join(map(str, sorted(rates)))
                raise AudioError(f"its rate changes: parts of it have {told} samples a second")
            if len(block):
                yield block, rate
    if not samples:
        raise AudioError(_NO_SAMPLES)


def _blocks(
    source: Path | BinaryIO, file: soundfile.SoundFile, max_seconds: float
) -> Iterator[tuple[Waveform, int]]:
    if file.format == "MP3":
        samples, rate = 0, 1
        for block, rate in mp3_blocks(_content(source), max_seconds=min(max_seconds, _MAX_SECONDS)):
            samples += len(block)
            yield block, rate
        if max_seconds > _MAX_SECONDS <= samples / rate:
            raise AudioError(f"it is longer than {_MAX_SECONDS / 3600:.0f} hours: cut it into shorter files")
    elif joined := _joined(source, file):
        yield from _joined_blocks(joined, max_seconds)
    else:
        yield from ((block, int(file.samplerate)) for block in _read_blocks(file, max_seconds))


@contextmanager
def opened(source: Path | BinaryIO) -> Iterator[soundfile.SoundFile]:
    """The file, its header checked. Raises AudioError, also for what libsndfile meets while it is open.

    libsndfile gets an open file: given a path, it takes a file `._name` beside it for a part of it.
    """
    try:
        with ExitStack() as stack:
            if isinstance(source, Path):
                opened: Any = stack.enter_context(open(source, "rb", buffering=0)).fileno()
            else:
                opened = source
                source.seek(0)
            file = stack.enter_context(soundfile.SoundFile(opened, closefd=False))
            _check_header(file)
            yield file
    except OSError as error:
        raise AudioError(f"it can't be read ({error.strerror})") from error
    except (soundfile.SoundFileError, TypeError) as error:
        raise _unreadable(error) from error
    except Mp3Error as error:
        raise AudioError(str(error)) from error


def _content(source: Path | BinaryIO) -> bytes:
    """All bytes; a stream stays where it was."""
    if isinstance(source, Path):
        return source.read_bytes()
    place = source.tell()
    source.seek(0)
    content = source.read()
    source.seek(place)
    return content


def _joined(source: Path | BinaryIO, file: soundfile.SoundFile) -> list[bytes]:
    """The files that were joined, or [] where it is one as usual."""
    if file.format not in BEGINS:
        return []
    if not isinstance(source, Path):
        return files_in(_content(source), file.format)
    # Mapped, a long file takes no memory that is needed elsewhere.
    with open(source, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return files_in(content, file.format)


def _joined_blocks(files: Sequence[bytes], max_seconds: float) -> Iterator[tuple[Waveform, int]]:
    """Their samples in a row; what begins after `max_seconds` is not decoded."""
    samples, rate = 0, 1
    for content in files:
        seconds = samples / rate
        if seconds > max_seconds:
            break
        for block, own_rate in mono_blocks(BytesIO(content), max_seconds - seconds):
            samples, rate = samples + len(block), own_rate
            yield block, rate


def _check_header(header: Any) -> None:
    """`header`: with the rate, the frames and the channels that the file claims to have."""
    if header.samplerate not in _RATES:
        raise AudioError(
            f"its header claims {header.samplerate} samples a second, {_RATES[0]} to {_RATES[-1]} are "
            "expected"
        )
    if header.format == "MP3":
        return
    if header.frames == UNKNOWN_FRAMES:
        raise AudioError("its header does not say how long it is, as in a stream: write it to a file again")
    if header.frames * header.channels > _MAX_SAMPLES:
        raise AudioError(
            f"its header claims {header.frames / header.samplerate / 3600:.0f} hours: cut it into shorter "
            "files"
        )


def _read_blocks(file: soundfile.SoundFile, max_seconds: float) -> Iterator[Waveform]:
    """Consecutive samples, channels averaged;
    of longer audio one more than asked for, however that is rounded."""
    left = int(min(file.frames, max_seconds * file.samplerate + 2))
    while left > 0 and len(block := _read_block(file, min(left, -(-_BLOCK_VALUES // file.channels)))):
        left -= len(block)
        yield block


def _read_block(file: soundfile.SoundFile, frames: int) -> Waveform:
    """(samples,). 16-bit samples are scaled here: the same values in two thirds of the time."""
    if file.subtype == "PCM_16":
        audio: Waveform = np.multiply(file.read(frames, dtype="int16"), _PCM_16_STEP, dtype=np.float32)
    else:
        audio = file.read(frames, dtype="float32")
        if not (np.abs(audio) <= _LARGEST_SAMPLE).all():
            raise AudioError(
                "the audio holds values that are not numbers, or far beyond full scale, which is 1"
            )
    return audio.mean(axis=1, dtype=np.float32) if audio.ndim > 1 else audio


def _unreadable(error: Exception) -> AudioError:
    return AudioError(f"not readable as audio ({error_text(error)}); WAV, FLAC, OGG and MP3 are")


def error_text(error: Exception) -> str:
    """libsndfile's own words, without the file name in front of them."""
    return getattr(error, "error_string", str(error)).strip().rstrip(".")
