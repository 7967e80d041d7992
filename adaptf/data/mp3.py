"""MP3 files decoded to their ends, whatever they say of their length.

libsndfile stops where a file's own count of frames does, or an estimate from the file's size where it has
none: both are wrong for a cover picture, a variable rate without a count, or two files joined. Read from a
pipe, where no length can be known, it decodes all that comes.
"""

import itertools
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

_RATES_AND_KBPS = re.escape(bytes(byte for byte in range(0x10, 0xF0) if byte & 0x0C != 0x0C))
ENCODERS_NOTE = re.compile(
    rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][" + _RATES_AND_KBPS + rb"].(?:..)?\0{9,32}(?:Xing|Info)", re.DOTALL
)
"""A silent frame in front of a stream: how many frames follow, and how many samples the encoder added."""
_DECODER_DELAY = 529
"""Samples by which any MP3 decoder is late."""
_MPEG_1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG_2_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
"""By the four bits of a frame's header."""
_BLOCK_SAMPLES, _BYTES_PER_READ = 2**16, 2**16
_ROUNDING = 1
"""In samples, so that what is longer than a limit never ends at it."""
_MOST_ZEROS = 1024
"""In which a frame may end, and over which the decoder comes;
more of them are a reserve that a recorder did not fill."""
_MOST_SECONDS_LOST = 1.0
"""As bytes that cannot be decoded, at the rate of those before:
tags that nobody knows are shorter, audio is mostly longer."""


class Mp3Error(ValueError):
    """A file that is damaged in its middle, or that changes its rate."""


class _Block(NamedTuple):
    """Consecutive samples of what one encoder wrote."""

    samples: NDArray[np.float32]
    """(samples,) with channels averaged"""
    rate: int
    """In Hz."""
    rest: int = 0
    """In the last block, which has no samples: bytes behind the last frame that was decoded."""


def mp3_blocks(content: bytes, *, max_seconds: float = math.inf) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Samples (samples,) of all streams of a file, one after the other, and their rate in Hz;
    of longer ones a little more than `max_seconds`.

    Raises Mp3Error, and soundfile's errors where a stream is none.
    """
    samples, rate = 0, 1  # whole numbers: a sum of seconds is not exact, and a limit is
    for part in _parts(content):
        seconds = samples / rate
        if seconds <= max_seconds:
            for block, own_rate in _read_stream(part, max_seconds=max_seconds - seconds):
                samples, rate = samples + len(block), own_rate
                yield block, rate


def _parts(content: bytes) -> Iterator[bytearray]:
    """The streams of joined files, each from its encoder's note on;
    without the tags in front and a reserve of zeros behind."""
    begin, end = _after_tags(content), len(content.rstrip(b"\0"))
    end += min(len(content) - end, _MOST_ZEROS)
    starts = [begin, *(note.start() for note in ENCODERS_NOTE.finditer(content, begin + 1)), end]
    for start, stop in itertools.pairwise(starts):
        yield bytearray(content[start:stop])


def _after_tags(content: bytes) -> int:
    """Where the first frame begins. ID3v2 writes its size as four digits of seven bits."""
    start = 0
    while content.startswith(b"ID3", start) and len(content) >= start + 10:
        size = sum(
            digit << 7 * place for place, digit in enumerate(reversed(content[start + 6 : start + 10]))
        )
        footer = 10 if content[start + 5] & 0x10 else 0
        start += 10 + size + footer
    return start


def _read_stream(part: bytearray, *, max_seconds: float) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Without what the encoder added, where its note is true."""
    frames, before, behind = -1, 0, 0
    if note := ENCODERS_NOTE.match(part):
        frames, before, behind = _read_note(part[note.end() :])
        del part[: _frame_bytes(part)]
    kept, decoded = np.zeros(0, np.float32), 0
    for block in _decode(part, max_seconds=max_seconds, added=before + behind):
        kept = np.concatenate([kept, block.samples[max(0, before - decoded) :]])
        decoded += len(block.samples)
        whole = max(0, len(kept) - behind)
        yield kept[:whole], block.rate
        kept = kept[whole:]
    if decoded != frames * _frame_samples(block.rate):
        seconds = decoded / block.rate
        if block.rest * seconds > (len(part) - block.rest) * _MOST_SECONDS_LOST:
            raise Mp3Error(
                f"it can't be decoded beyond {seconds:.1f} s: it is damaged there, or another rate begins"
            )
        yield kept, block.rate


def _read_note(fields: bytearray) -> tuple[int, int, int]:
    """Frames, and samples added before and behind; of a note that does not say them -1, 0, 0.

    The first four bytes say which of four fields follow; LAME's own field comes after them, if at all.
    """
    present = [place for place in range(4) if fields[3:4] and fields[3] >> place & 1]
    frames = int.from_bytes(fields[4:8]) if 0 in present else -1
    lame = fields[4 + sum((4, 4, 100, 4)[place] for place in present) :]
    if len(lame) < 24 or not lame[0]:
        return frames, 0, 0
    delay, padding = lame[21] << 4 | lame[22] >> 4, (lame[22] & 0x0F) << 8 | lame[23]
    return frames, delay + _DECODER_DELAY, max(0, padding - _DECODER_DELAY)


def _frame_bytes(frame: bytearray) -> int:
    """Length of a frame by its header."""
    version, kbps = frame[1] >> 3 & 3, (_MPEG_1_KBPS if frame[1] & 8 else _MPEG_2_KBPS)[frame[2] >> 4]
    rate = (44100, 48000, 32000)[frame[2] >> 2 & 3] // {3: 1, 2: 2, 0: 4}[version]
    return _frame_samples(rate) // 8 * kbps * 1000 // rate + (frame[2] >> 1 & 1)


def _frame_samples(rate: int) -> int:
    """MPEG 1 has the three highest rates."""
    return 1152 if rate >= 32000 else 576


def _decode(part: bytearray, *, max_seconds: float, added: int) -> Iterator[_Block]:
    """Decodes until nothing comes any more, or there are more than `max_seconds` beside the `added` samples.

    An error may be the end of a file that was cut off.
    All that comes before it is kept by a slower reading, frame by frame.
    """
    done = 0
    try:
        for block in _read(part, max_seconds, added, _BLOCK_SAMPLES):
            done += len(block.samples)
            yield block
    except soundfile.SoundFileError as error:
        for block in _read(part, max_seconds, added, 576, type(error)):
            known = min(done, len(block.samples))
            done -= known
            yield block._replace(samples=block.samples[known:])


def _read(
    part: bytearray, max_seconds: float, added: int, block_samples: int, *may_end_it: type[Exception]
) -> Iterator[_Block]:
    with _piped(part) as pipe, soundfile.SoundFile(pipe, closefd=False) as file:
        rate = int(file.samplerate)
        missing = max_seconds * rate + added + _ROUNDING
        with suppress(*may_end_it):
            while missing >= 0 and len(block := file.read(block_samples, dtype="float32")):
                missing -= len(block)
                yield _Block(block if block.ndim == 1 else block.mean(axis=1, dtype=np.float32), rate)
        rest = sum(map(len, iter(lambda: os.read(pipe, _BYTES_PER_READ), b""))) if missing >= 0 else 0
        yield _Block(np.zeros(0, np.float32), rate, rest)


@contextmanager
def _piped(content: bytearray) -> Iterator[int]:
    """The end of a pipe from which the content can be read."""
    source, sink = os.pipe()
    feeder = threading.Thread(target=_feed, args=(sink, memoryview(content)), daemon=True)
    feeder.start()
    try:
        yield source
    finally:
        os.close(source)  # ends a feeder that nobody reads from any more
        feeder.join()


def _feed(sink: int, content: memoryview) -> None:
    try:
        with suppress(BrokenPipeError):
            while content:
                content = content[os.write(sink, content) :]
    finally:
        os.close(sink)
