import pytest
import torch

from adaptf.audio.kaldi_mel import kaldi_mel_filterbank
from adaptf.audio.logmel import LogMel, banded_blocks


@pytest.mark.parametrize("bands", [512, 256])
def test_logmel_equals_the_reference(golden, bands):
    reference = golden("cpmel")
    logmel = LogMel(bands=bands)(reference["wav"])
    assert logmel.shape == (1, 1, bands, 64)
    assert (logmel[:, 0] - reference[f"logmel{bands}"]).abs().max() < 1e-4


def test_one_second_has_64_frames():
    assert LogMel(bands=64)(torch.zeros(2, 32000)).shape == (2, 1, 64, 64)


def test_a_clip_has_the_same_logmel_alone_and_in_a_batch():
    waveform = torch.randn(5, 32000, generator=torch.Generator().manual_seed(0))
    logmel = LogMel(bands=128)
    assert torch.allclose(logmel(waveform)[3:4], logmel(waveform[3:4]), atol=1e-5)


def test_banded_product_equals_the_dense_product():
    filters = kaldi_mel_filterbank(96, n_fft=1024, sample_rate=16000, low_hz=0.0, high_hz=8000.0)
    power = torch.rand(513, 7, generator=torch.Generator().manual_seed(0))
    banded = torch.cat([filters[rows, columns] @ power[columns] for rows, columns in banded_blocks(filters, 32)])
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
