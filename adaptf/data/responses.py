"""Measured impulse responses from a folder, such as MicIRP."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adaptf.audio.impulse_response import ResponseBank
from adaptf.data.decode import AudioError, decode


def load_responses(folder: Path, *, sample_rate: int) -> ResponseBank:
    """Every audio file below `folder`: resampled once, peak aligned, of unit energy, padded to one length.

    Responses peak at sample 2 to 90 in published sets; aligned, none of them shifts a clip in time.
    Raises ValueError where the folder holds no readable response.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".wav", ".flac", ".ogg"})
    if not paths:
        raise ValueError(f"{folder} holds no impulse response: WAV, FLAC or OGG files are expected there")
    return ResponseBank(torch.from_numpy(pad_together([_read_response(path, sample_rate) for path in paths])))


def _read_response(path: Path, sample_rate: int) -> NDArray[np.float32]:
    try:
        response = decode(path, sample_rate=sample_rate)
    except AudioError as error:
        raise ValueError(f"impulse response {path}: {error}") from error
    response = response[np.abs(response).argmax() :]
    energy = float(np.square(response).sum())
    if energy == 0:
        raise ValueError(f"impulse response {path} is silent")
    return (response / np.sqrt(energy)).astype(np.float32)


def pad_together(signals: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Signals of different lengths as rows of one array, zeros after their ends."""
    padded = np.zeros((len(signals), max(map(len, signals))), dtype=np.float32)
    for row, signal in zip(padded, signals, strict=True):
        row[: len(signal)] = signal
    return padded
