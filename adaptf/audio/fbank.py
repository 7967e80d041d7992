"""The input features of BEATs:
Kaldi's log filterbank energies, on whole batches and on the device of the waveform."""

import torch
from torch import Tensor, nn

from adaptf.audio.kaldi_mel import kaldi_mel_filterbank

SAMPLE_RATE = 16000
BANDS = 128
_WINDOW_SAMPLES, _HOP_SAMPLES, _N_FFT = 400, 160, 512
"""25 ms and 10 ms, and the power of two that holds a window."""
_LOW_HZ = 20.0
_PREEMPHASIS = 0.97
_POVEY_EXPONENT = 0.85
"""Kaldi's Povey window is a symmetric Hann window raised to this power, so that its ends reach zero."""
_FULL_SCALE = 2**15
"""Kaldi reads 16-bit samples as they are, where ours lie in [-1, 1]."""
FLOOR = torch.finfo(torch.float32).eps
"""Energies below it count as silence, whatever the precision."""
MEAN, STD = 15.41663, 6.55582
"""The normalization published with BEATs divides by two standard deviations."""


class Fbank(nn.Module):
    """Waveform (batch, samples) at 16 kHz in [-1,
    1] -> normalized log filterbank energies (batch, frames, 128).

    Frames of 25 ms every 10 ms, none of them reaching over the end: 16,000 samples give 98. The operations
    and their rounding are those of torchaudio.compliance.kaldi.fbank, which takes one clip at a time. Raises
    ValueError where the waveform has another number of axes or is shorter than one frame.
    """

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Rounded as torchaudio rounds it: bands without energy hold what an FFT makes of the last bits of its
        # input.
        window = torch.hann_window(_WINDOW_SAMPLES, periodic=False, dtype=torch.float32).pow(_POVEY_EXPONENT)
        filters = kaldi_mel_filterbank(
            BANDS, n_fft=_N_FFT, sample_rate=SAMPLE_RATE, low_hz=_LOW_HZ, high_hz=SAMPLE_RATE / 2
        )
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        if waveform.ndim != 2 or waveform.shape[1] < _WINDOW_SAMPLES:
            raise ValueError(
                f"waveform should be (batch, samples) with at least {_WINDOW_SAMPLES} samples (25 ms at 16 "
                f"kHz), got {tuple(waveform.shape)}"
            )
        frames = (waveform * _FULL_SCALE).unfold(1, _WINDOW_SAMPLES, _HOP_SAMPLES)  # [b, frames, window]
        frames = frames - frames.mean(dim=2, keepdim=True)
        # Kaldi filters each frame on its own: the first sample stands in for the one before it.
        before = torch.cat([frames[:, :, :1], frames[:, :, :-1]], dim=2)
        spectrum = torch.fft.rfft((frames - _PREEMPHASIS * before) * self.window, n=_N_FFT)
        energies = spectrum.abs().square() @ self.filters.T  # [b, frames, bands]
        return (energies.clamp_min(FLOOR).log() - MEAN) / (2 * STD)
