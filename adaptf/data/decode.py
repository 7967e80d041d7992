"""Decoding of one audio file or byte stream: mono, float32, one sample rate."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

Waveform = NDArray[np.float32]


class AudioError(ValueError):
    """The bytes are no audio that libsndfile can read, or hold no samples."""


def decode(source: Path | BinaryIO, *, sample_rate: int) -> Waveform:
    """Samples (samples,) in [-1, 1] at `sample_rate`: channels averaged, resampled by soxr in its high quality.

    Raises AudioError, with a message without the file's name, for what is not readable audio.
    """
    try:
        audio, source_rate = soundfile.read(source, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise AudioError(f"not readable as audio ({error_text(error)}); WAV, FLAC and OGG are") from error
    if not len(audio):
        raise AudioError("the audio has no samples")
    if not np.isfinite(audio).all():
        raise AudioError("the audio holds values that are not numbers")
    mono = audio.mean(axis=1) if audio.shape[1] > 1 else audio[:, 0]
    return soxr.resample(mono, source_rate, sample_rate, quality="HQ").astype(np.float32, copy=False)


def error_text(error: Exception) -> str:
    """libsndfile's own words, without the file name in front of them."""
    return getattr(error, "error_string", str(error)).strip().rstrip(".")
