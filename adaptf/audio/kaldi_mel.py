"""The triangular mel filterbank of Kaldi, shared by the log-mel of TF-SepNet and the fbank of BEATs."""

import torch
from torch import Tensor


def hz_to_mel(hz: Tensor) -> Tensor:
    """Kaldi's mel scale, 1127 ln(1 + f / 700)."""
    return 1127.0 * torch.log1p(hz / 700.0)


def kaldi_mel_filterbank(
    bands: int, *, n_fft: int, sample_rate: int, low_hz: float, high_hz: float
) -> Tensor:
    """Weights (bands, n_fft // 2 + 1) of triangles that are equally wide in mel,
    their flanks straight in mel.

    As in Kaldi the bin at Nyquist carries no weight: its column is zero.
    """
    if not 0 <= low_hz < high_hz <= sample_rate / 2:
        raise ValueError(
            f"mel bands from {low_hz} to {high_hz} Hz do not fit 0 .. {sample_rate / 2} Hz, half of "
            f"{sample_rate} Hz"
        )
    edges_hz = torch.tensor([low_hz, high_hz], dtype=torch.float64)
    low_mel, high_mel = hz_to_mel(edges_hz).tolist()
    edges = torch.linspace(low_mel, high_mel, bands + 2, dtype=torch.float64)
    left, center, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    mel = hz_to_mel(torch.arange(n_fft // 2, dtype=torch.float64) * sample_rate / n_fft)[None]
    rising = (mel - left) / (center - left)
    falling = (right - mel) / (right - center)
    weights = torch.minimum(rising, falling).clamp_min(0.0)
    return torch.nn.functional.pad(weights, (0, 1)).float()
