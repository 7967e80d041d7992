"""Measured impulse responses from a folder, such as MicIRP."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from adaptf.audio.impulse_response import ResponseBank
from adaptf.data.decode import AUDIO_SUFFIXES, AudioError, Resampler, read_mono
from adaptf.data.errors import DataError, raise_problems
from adaptf.data.folders import files_below

ResponseLevel = Literal["unit_energy", "as_recorded"]

_RINGING_SECONDS = 0.01
"""What resampling puts before and after a sharp peak has died away 90 dB by then, from 8 kHz upwards."""


def load_responses(folder: Path, *, sample_rate: int, level: ResponseLevel) -> ResponseBank:
    """Every audio file below `folder`: resampled once, whole, padded to one length, its peak as its delay.

    Published ones peak at up to 2.6 ms; with that taken back none of them shifts a clip in time. Each has an
    energy of 1, or the gain that its file has. Raises DataError where the folder holds no response or files
    that can't be used, all of which it names.
    """
    names = files_below(folder, suffixes=AUDIO_SUFFIXES)
    if not names:
        raise DataError(
            f"{folder} holds no impulse response: {', '.join(sorted(AUDIO_SUFFIXES))} files are expected "
            "there"
        )
    found = [_read_response(folder / name, sample_rate, level) for name in names]
    problems = [
        f"{name}: {response}"
        for name, response in zip(names, found, strict=True)
        if isinstance(response, str)
    ]
    raise_problems(problems, of=f"the impulse responses of {folder}")
    responses = torch.from_numpy(
        _pad_together([response for response in found if not isinstance(response, str)])
    )
    return ResponseBank(responses, delays=responses.abs().argmax(dim=1))


def _read_response(path: Path, sample_rate: int, level: ResponseLevel) -> NDArray[np.float32] | str:
    """The response, or why it can't be used."""
    try:
        recorded, rate = read_mono(path)
        response = _resampled(recorded, rate, sample_rate)
    except AudioError as error:
        return str(error)
    energy = float(np.square(response).sum())
    if energy == 0:
        return "it is silent"
    return (response / np.sqrt(energy)).astype(np.float32) if level == "unit_energy" else response


def _resampled(response: NDArray[np.float32], rate: int, sample_rate: int) -> NDArray[np.float32]:
    """With the gain that it has at its own rate,
    and with what its resampling rings before its first sample."""
    if rate == sample_rate:
        return response
    around = np.pad(response, round(_RINGING_SECONDS * rate))
    return Resampler(sample_rate)(around, rate) * np.float32(rate / sample_rate)


def _pad_together(signals: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Signals of different lengths as rows of one array, zeros after their ends."""
    padded = np.zeros((len(signals), max(map(len, signals))), dtype=np.float32)
    for row, signal in zip(padded, signals, strict=True):
        row[: len(signal)] = signal
    return padded
