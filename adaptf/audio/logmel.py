"""The log-mel input of TF-SepNet ("CpMel" of the public reference trainer), on whole batches."""

import torch
from torch import Tensor, nn

from adaptf.audio.cores import in_parts
from adaptf.audio.kaldi_mel import kaldi_mel_filterbank

CLIP_RATE = 32_000
"""Samples a second of the clips that networks hear."""
BANDS, N_FFT, WINDOW_SAMPLES, HOP_SAMPLES = 512, 4096, 3072, 500
"""The log-mel of the paper, by default."""
LOG_OFFSET = 1e-5
SHIFT, SCALE = 4.5, 5.0
"""The published normalization: (log-mel + 4.5) / 5 has a spread near one on TAU."""

_BANDS_PER_BLOCK = 32
"""A band touches few bins,
so products with blocks of neighbouring bands skip most of a dense matrix's zeros."""
CLIPS_IN_CACHE = 4
"""Worked on at a time by a processor:
a clip takes some 4 MB, and outside of its caches up to three times as long."""
_HALF_PRECISION = (torch.float16, torch.bfloat16)


class LogMel(nn.Module):
    """Waveform (batch, samples) -> normalized log-mel (batch, 1, bands, frames).

    Pre-emphasis without padding drops one sample: 32,000 samples give 64 frames at a hop of 500, where 32,001
    would give 65 and break the challenge's limit on operations.
    """

    filters: Tensor
    window: Tensor

    def __init__(
        self,
        *,
        bands: int = BANDS,
        sample_rate: int = CLIP_RATE,
        n_fft: int = N_FFT,
        window_samples: int = WINDOW_SAMPLES,
        hop_samples: int = HOP_SAMPLES,
        preemphasis: float = 0.97,
    ) -> None:
        super().__init__()
        if window_samples > n_fft:
            raise ValueError(f"a window of {window_samples} samples does not fit an FFT of {n_fft}")
        self.bands, self.n_fft, self.window_samples, self.hop_samples = (
            bands,
            n_fft,
            window_samples,
            hop_samples,
        )
        self.sample_rate, self.preemphasis = sample_rate, preemphasis
        self.settings = (bands, sample_rate, n_fft, window_samples, hop_samples, preemphasis)
        self.register_buffer("window", torch.hann_window(window_samples, periodic=False), persistent=False)
        filters = kaldi_mel_filterbank(
            bands, n_fft=n_fft, sample_rate=sample_rate, low_hz=0.0, high_hz=sample_rate / 2
        )
        self.blocks = banded_blocks(filters, _BANDS_PER_BLOCK)
        self.register_buffer("filters", filters, persistent=False)
        # Copies: a product with rows that lie 2049 values apart takes twice as long.
        for place, (rows, columns) in enumerate(self.blocks):
            self.register_buffer(f"_block_{place}", filters[rows, columns].contiguous(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        if waveform.ndim != 2:
            raise ValueError(f"waveform should be (batch, samples), got {tuple(waveform.shape)}")
        # A loud tone's power overflows half precision, and bfloat16 has too few digits for a quiet band
        # beside it.
        with torch.autocast(waveform.device.type, enabled=False):
            waveform = waveform.float() if waveform.dtype in _HALF_PRECISION else waveform
            return in_parts(self._logmel, waveform, CLIPS_IN_CACHE)

    def _logmel(self, waveform: Tensor) -> Tensor:
        waveform = waveform[:, 1:] - self.preemphasis * waveform[:, :-1]
        margin = self.window_samples // 2
        padded = nn.functional.pad(waveform[:, None], (margin, margin), mode="reflect")[:, 0]
        frames = padded.unfold(1, self.window_samples, self.hop_samples) * self.window  # [b, frames, window]
        # Zeros after the window instead of around it: the same power, and a smaller rounding error than
        # torch.stft.
        parts = torch.view_as_real(torch.fft.rfft(frames, n=self.n_fft))
        # Not as a product of complex numbers: its real parts are every other value, which the products below
        # copy first.
        power = parts[..., 0].square().addcmul_(parts[..., 1], parts[..., 1])  # [b, frames, bins]
        mel = self._mel(power)
        return mel.add_(LOG_OFFSET).log_().add_(SHIFT).div_(SCALE).unsqueeze(1)

    def _mel(self, power: Tensor) -> Tensor:
        """Power (batch, frames, bins) -> (batch, bands, frames), the frames of all clips in one product."""
        spectra = power.flatten(0, 1).T
        products = [
            self.get_buffer(f"_block_{n}") @ spectra[columns] for n, (_, columns) in enumerate(self.blocks)
        ]
        return torch.cat(products).unflatten(1, power.shape[:2]).transpose(0, 1).contiguous()

    def frames(self, samples: int) -> int:
        """Frames of a waveform of so many samples."""
        return (samples - 1) // self.hop_samples + 1


def banded_blocks(filters: Tensor, bands_per_block: int) -> list[tuple[slice, slice]]:
    """Rows and the columns they touch, for blocks of neighbouring bands of a filterbank (bands, bins)."""
    blocks = []
    for start in range(0, filters.shape[0], bands_per_block):
        rows = slice(start, min(start + bands_per_block, filters.shape[0]))
        touched = filters[rows].any(dim=0).nonzero().flatten()
        first, last = (int(touched[0]), int(touched[-1])) if len(touched) else (0, 0)
        blocks.append((rows, slice(first, last + 1)))
    return blocks
