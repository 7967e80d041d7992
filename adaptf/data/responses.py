"""Measured impulse responses from a folder, such as MicIRP."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adaptf.audio.impulse_response import ResponseBank
from adaptf.data.decode import AUDIO_SUFFIXES, AudioError, decode
from adaptf.data.errors import DataError, raise_problems
from adaptf.data.folders import files_below


def load_responses(folder: Path, *, sample_rate: int) -> ResponseBank:
    """Every audio file below `folder`: resampled once, peak aligned, of unit energy, padded to one length.

    Responses peak at sample 2 to 90 in published sets; aligned, none of them shifts a clip in time.
    Raises DataError where the folder holds no response or files that can't be used, all of which it names.
    """
    paths = [folder / name for name in files_below(folder, suffixes=AUDIO_SUFFIXES)]
    if not paths:
        raise DataError(f"{folder} holds no impulse response: {', '.join(sorted(AUDIO_SUFFIXES))} files are expected there")
    found = [_read_response(path, sample_rate) for path in paths]
    problems = [f"{path.name}: {response}" for path, response in zip(paths, found, strict=True) if isinstance(response, str)]
    raise_problems(problems, of=f"the impulse responses of {folder}")
    return ResponseBank(torch.from_numpy(pad_together([response for response in found if not isinstance(response, str)])))


def _read_response(path: Path, sample_rate: int) -> NDArray[np.float32] | str:
    """The response, or why it can't be used."""
    try:
        response = decode(path, sample_rate=sample_rate)
    except AudioError as error:
        return str(error)
    response = response[np.abs(response).argmax() :]
    energy = float(np.square(response).sum())
    if energy == 0:
        return "it is silent"
    return (response / np.sqrt(energy)).astype(np.float32)


def pad_together(signals: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Signals of different lengths as rows of one array, zeros after their ends."""
    padded = np.zeros((len(signals), max(map(len, signals))), dtype=np.float32)
    for row, signal in zip(padded, signals, strict=True):
        row[: len(signal)] = signal
    return padded
