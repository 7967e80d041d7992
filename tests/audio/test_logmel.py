import numpy as np
import pytest
import torch

from adaptf.audio.kaldi_mel import kaldi_mel_filterbank
from adaptf.audio.logmel import LogMel, banded_blocks

pytestmark = pytest.mark.arithmetic


def cpmel(waveform, bands, log_energies):
    """The published log-mel (clips, bands, 64) in float64, and how far float32 may lie from it."""
    heard = waveform.double().numpy()
    window = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(3072) / 3071), 512)

    def frames(clips):
        padded = np.pad(clips, ((0, 0), (2048, 2048)), mode="reflect")
        return window * np.lib.stride_tricks.sliding_window_view(padded, 4096, axis=1)[:, ::500]

    emphasised = frames(heard[:, 1:] - 0.97 * heard[:, :-1])
    settings = {
        "n_fft": 4096,
        "bands": bands,
        "sample_rate": 32000,
        "low_hz": 0.0,
        "offset": 1e-5,
        "floor": 0.0,
    }
    exact, rounding = log_energies(frames(heard[:, 1:]), emphasised, **settings)
    return ((exact + 4.5) / 5).swapaxes(1, 2), (rounding / 5).swapaxes(1, 2)


def a_tone_above_noise():
    """Bands beside the tone hold what the window lets through."""
    noise = 0.001 * torch.randn(2, 32000, generator=torch.Generator().manual_seed(0))
    return 0.3 * torch.sin(2 * torch.pi * 1000 / 32000 * torch.arange(32000)) + noise


@pytest.mark.parametrize("bands", [512, 256, 64])
def test_logmel_equals_the_formulas_as_far_as_float32_goes(golden, log_energies, bands):
    """With two libraries' FFTs it lies within 9 roundings of them;
    a window that is not symmetric is 2000 off."""
    for waveform in (golden("cpmel")["wav"], a_tone_above_noise()):
        exact, rounding = cpmel(waveform, bands, log_energies)
        logmel = LogMel(bands=bands)(waveform)
        assert logmel.shape == (len(waveform), 1, bands, 64)
        assert (np.abs(logmel[:, 0].numpy() - exact) < 32 * rounding).all()


@pytest.mark.parametrize("bands", [512, 256])
def test_the_reference_equals_the_formulas_as_far_as_its_float32_filters_go(golden, log_energies, bands):
    """At its largest mel, 2840, float32 has steps of 0.0002, and its bands are from 5.5 wide on."""
    reference = golden("cpmel")
    exact, _ = cpmel(reference["wav"], bands, log_energies)
    assert np.abs(reference[f"logmel{bands}"].numpy() - exact).max() < 2e-4


def test_one_second_has_64_frames():
    assert LogMel(bands=64)(torch.zeros(2, 32000)).shape == (2, 1, 64, 64)


def test_a_clip_has_the_same_logmel_alone_and_in_a_batch():
    waveform = torch.randn(5, 32000, generator=torch.Generator().manual_seed(0))
    logmel = LogMel(bands=128)
    assert torch.allclose(logmel(waveform)[3:4], logmel(waveform[3:4]), atol=1e-3)


def test_banded_product_equals_the_dense_product():
    filters = kaldi_mel_filterbank(96, n_fft=1024, sample_rate=16000, low_hz=0.0, high_hz=8000.0)
    power = torch.rand(513, 7, generator=torch.Generator().manual_seed(0))
    banded = torch.cat(
        [filters[rows, columns] @ power[columns] for rows, columns in banded_blocks(filters, 32)]
    )
    assert torch.allclose(banded, filters @ power, atol=1e-5)


def test_logmel_refuses_a_waveform_without_a_batch_axis():
    with pytest.raises(ValueError, match=r"should be \(batch, samples\), got \(32000,\)"):
        LogMel(bands=64)(torch.zeros(32000))


def test_filterbank_refuses_bands_above_half_the_sample_rate():
    with pytest.raises(ValueError, match=r"do not fit 0 \.\. 8000"):
        kaldi_mel_filterbank(10, n_fft=512, sample_rate=16000, low_hz=0.0, high_hz=9000.0)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_a_loud_tone_keeps_its_log_mel_under_autocast(precision):
    tone = torch.sin(2 * torch.pi * 4000 / 32000 * torch.arange(32000))[None]
    expected = LogMel()(tone)
    with torch.autocast("cpu", dtype=precision):
        assert torch.equal(LogMel()(tone), expected)
