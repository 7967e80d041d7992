"""Microphones that do not exist, for the demo data and for augmentation without MicIRP."""

import numpy as np
from scipy.fft import irfft, rfft
from scipy.ndimage import uniform_filter1d

_RESONANCES = 4
_FLOOR_DB = -60.0
_TAPS = 1024
"""Samples of a response."""
_THRESHOLD_DB, _RATIO = -35.0, 3.0


def simulate_responses(count: int, *, sample_rate: int, seed: int) -> np.ndarray:
    """Impulse responses (count, TAPS) float32 of `count` imagined microphones, each of energy 1.

    A response is a band-pass with a tilt and a few resonances and notches. It has minimum phase, so it starts
    at once: its peak lies within the first millisecond and nothing needs to be aligned. The characteristics
    are drawn in Hz: the same seed at another rate is the same microphone,
    and a larger bank starts with the smaller one.

    Raises ValueError where `count` or `sample_rate` is not positive.
    """
    if count < 1:
        raise ValueError(f"count is {count}; a bank holds at least one response")
    if sample_rate < 1:
        raise ValueError(f"sample_rate is {sample_rate} Hz; it has to be positive")
    # Four times the length keeps what the folding of the cepstrum wraps around below the floor.
    fft_length = 4 * _TAPS
    hz = np.maximum(np.fft.rfftfreq(fft_length, 1 / sample_rate), 1.0)
    draws = np.random.default_rng(seed).random((count, 5 + 3 * _RESONANCES))
    responses = _minimum_phase(_magnitude_db(draws, hz), fft_length)[:, :_TAPS]
    responses[:, _TAPS // 2 :] *= np.cos(np.linspace(0, np.pi / 2, _TAPS // 2)) ** 2
    return (responses / np.linalg.norm(responses, axis=1, keepdims=True)).astype(np.float32)


def compress(signals: np.ndarray, *, sample_rate: int) -> np.ndarray:
    """`signals` (..., samples) with less dynamic range: a level above the threshold rises only by 1 / RATIO.

    The level is the root mean square over 10 ms in dB of full scale.
    """
    power = uniform_filter1d(signals**2, max(1, sample_rate // 100), axis=-1)
    over_db = np.maximum(10 * np.log10(power + 1e-10) - _THRESHOLD_DB, 0)
    return signals * 10 ** (over_db * (1 / _RATIO - 1) / 20)


def _magnitude_db(draws: np.ndarray, hz: np.ndarray) -> np.ndarray:
    """Magnitudes in dB (count, bins) at `hz` (bins,),
    from uniform draws (count, 5 + 3 * RESONANCES) in 0..1."""
    low_hz, high_hz = _log_scale(draws[:, 0:1], 50, 500), _log_scale(draws[:, 1:2], 4000, 13000)
    low_order, high_order = 1 + 2 * draws[:, 2:3], 2 + 4 * draws[:, 3:4]
    tilt_db_per_octave = 4 * draws[:, 4:5] - 2
    magnitude_db = tilt_db_per_octave * np.log2(hz / 1000)
    magnitude_db -= 10 * np.log10(1 + (low_hz / hz) ** (2 * low_order))
    magnitude_db -= 10 * np.log10(1 + (hz / high_hz) ** (2 * high_order))
    for center, sharpness, gain in draws[:, 5:].reshape(-1, _RESONANCES, 3).transpose(1, 2, 0)[..., None]:
        center_hz, q, gain_db = _log_scale(center, 150, 7000), _log_scale(sharpness, 0.7, 5), 20 * gain - 12
        magnitude_db += gain_db / (1 + (q * (hz / center_hz - center_hz / hz)) ** 2)
    return np.maximum(magnitude_db - magnitude_db.max(axis=1, keepdims=True), _FLOOR_DB)


def _minimum_phase(magnitude_db: np.ndarray, fft_length: int) -> np.ndarray:
    """Causal responses (count, fft_length) of the given magnitudes (count, bins):
    the real cepstrum, folded."""
    cepstrum = irfft(magnitude_db * np.log(10) / 20, fft_length, axis=1)
    half = fft_length // 2
    cepstrum[:, 1:half] *= 2
    cepstrum[:, half + 1 :] = 0
    return irfft(np.exp(rfft(cepstrum, axis=1)), fft_length, axis=1)


def _log_scale(uniform: np.ndarray, low: float, high: float) -> np.ndarray:
    return low * (high / low) ** uniform
