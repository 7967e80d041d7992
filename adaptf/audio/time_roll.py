"""Time rolling: each clip rolled cyclically in time by a shift of its own (Schmid et al., DCASE 2023,
CP-Mobile)."""

import numpy as np
import torch
from torch import Tensor

from adaptf.audio.on_device import moved


class TimeRoll:
    """A shift of up to `max_seconds` either way, drawn evenly in samples for each clip; 0 switches it off.

    Raises ValueError where `max_seconds` is negative.
    """

    def __init__(self, *, max_seconds: float, sample_rate: int, generator: np.random.Generator) -> None:
        if max_seconds < 0:
            raise ValueError(f"max_seconds should be 0 or more, got {max_seconds}")
        self.max_samples, self.generator = round(max_seconds * sample_rate), generator

    def draw(self, batch: int) -> Tensor | None:
        """Samples by which each clip moves later (batch,); None where the batch stays as it is."""
        if self.max_samples == 0:
            return None
        return torch.from_numpy(
            self.generator.integers(-self.max_samples, self.max_samples, size=batch, endpoint=True)
        )

    def __call__(self, waveform: Tensor) -> Tensor:
        """(batch, samples) -> the same shape."""
        shifts = self.draw(len(waveform))
        return waveform if shifts is None else roll(waveform, shifts)


def roll(waveform: Tensor, shifts: Tensor) -> Tensor:
    """(batch, samples) -> the same shape, each clip moved later by its own of the shifts (batch,) in samples.

    Each result is a window on the clip with its end before it and its start after it: an index per clip,
    where one per sample would take twice the waveforms' memory.
    """
    samples = waveform.shape[1]
    shifts = shifts.fmod(samples)
    reach = int(shifts.abs().max())
    around = torch.cat([waveform[:, samples - reach :], waveform, waveform[:, :reach]], dim=1)
    windows = around.unfold(1, samples, 1)  # [b, 2 * reach + 1, samples], a view
    clips = torch.arange(len(waveform), device=waveform.device)
    return windows[clips, moved(reach - shifts, waveform.device)]
