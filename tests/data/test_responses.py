"""Measured impulse responses from a folder."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import fftconvolve, firwin

from adaptf.data.errors import DataError
from adaptf.data.responses import load_responses

MICIRP = Path(__file__).parents[3] / "shared/data/micirp"


def write_low_pass(path, *, rate, gain=1.0, samples=101):
    """4 kHz, of linear phase: half of it comes before the peak."""
    soundfile.write(path, gain * firwin(samples, 4000, fs=rate), rate, subtype="FLOAT")


def tones(*frequencies_hz):
    """(frequencies, samples), a second each, faded in and out: its ends are no sound of other frequencies."""
    seconds = np.arange(32000) / 32000
    fade = np.hanning(32000)
    return torch.tensor(
        np.stack([fade * np.sin(2 * np.pi * hz * seconds) for hz in frequencies_hz]), dtype=torch.float32
    )


def gain_db(bank, hz):
    """Of the bank's first response."""
    tone = tones(hz)
    return float(
        10 * torch.log10(bank.convolve(tone, torch.tensor([0])).square().sum() / tone.square().sum())
    )


@pytest.mark.parametrize("rate", [32000, 44100, 48000])
def test_a_low_pass_stays_one(tmp_path, rate):
    write_low_pass(tmp_path / "low_pass.wav", rate=rate)
    bank = load_responses(tmp_path, sample_rate=32000, level="unit_energy")
    assert gain_db(bank, 8000) - gain_db(bank, 1000) < -60


@pytest.mark.parametrize("rate", [32000, 44100, 48000])
def test_responses_of_any_rate_shift_no_clip_in_time(tmp_path, rate):
    write_low_pass(tmp_path / "low_pass.wav", rate=rate)
    bank = load_responses(tmp_path, sample_rate=32000, level="as_recorded")
    clicks = torch.zeros(1, 32000)
    clicks[0, [0, 700, 31999]] = 1
    heard = bank.convolve(clicks, torch.tensor([0]))[0]
    for place in (0, 700, 31999):
        around = heard[max(place - 200, 0) : place + 200]
        assert around.abs().argmax() == min(place, 200)


def test_a_response_is_convolved_whole_from_its_peak_on(tmp_path):
    recorded = np.random.default_rng(0).standard_normal(900).astype(np.float32)
    recorded[333] = 9
    soundfile.write(tmp_path / "response.wav", recorded, 32000, subtype="FLOAT")
    bank = load_responses(tmp_path, sample_rate=32000, level="as_recorded")
    clips = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))
    heard = bank.convolve(clips, torch.tensor([0, 0])).numpy()
    for clip, found in zip(clips.numpy(), heard, strict=True):
        assert found == pytest.approx(np.convolve(clip, recorded)[333 : 333 + 5000], abs=1e-3)


def test_what_resampling_rings_before_a_response_is_not_cut_off(tmp_path):
    recorded = np.zeros(200)
    recorded[0] = 1
    soundfile.write(tmp_path / "response.wav", recorded, 44100, subtype="FLOAT")
    bank = load_responses(tmp_path, sample_rate=32000, level="as_recorded")
    assert [gain_db(bank, hz) for hz in (100, 4000, 12000)] == pytest.approx([0, 0, 0], abs=0.01)


def test_responses_have_unit_energy_or_the_gain_that_they_were_recorded_with(tmp_path):
    for place, rate in enumerate((32000, 44100, 48000)):
        write_low_pass(tmp_path / f"{place}.wav", rate=rate, gain=0.5)
    unit = load_responses(tmp_path, sample_rate=32000, level="unit_energy")
    assert np.square(unit.responses.numpy()).sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    recorded = load_responses(tmp_path, sample_rate=32000, level="as_recorded")
    assert recorded.responses.sum(dim=1).tolist() == pytest.approx(
        [0.5] * 3, abs=1e-3
    )  # of a constant signal


def test_shorter_responses_end_in_zeros(tmp_path):
    write_low_pass(tmp_path / "long.wav", rate=32000, samples=4001)
    write_low_pass(tmp_path / "short.flac.wav", rate=32000, samples=1001)
    bank = load_responses(tmp_path, sample_rate=32000, level="unit_energy")
    assert bank.responses.shape == (2, 4001)
    assert not bank.responses[1, 1001:].any()
    assert bank.delays.tolist() == [2000, 500]


def test_all_files_that_cannot_be_used_are_named_at_once(tmp_path):
    write_low_pass(tmp_path / "good.wav", rate=44100)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/broken.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "silent.wav", np.zeros(100), 44100)
    with pytest.raises(DataError, match=r"2 problems in the impulse responses of ") as error:
        load_responses(tmp_path, sample_rate=32000, level="unit_energy")
    assert "old/broken.wav: not readable as audio (" in str(error.value)
    assert "silent.wav: it is silent" in str(error.value)


def test_hidden_files_are_none_and_links_are_followed(tmp_path):
    write_low_pass(tmp_path / "a.wav", rate=32000)
    (tmp_path / "._a.wav").write_bytes(bytes.fromhex("0005160700020000") + bytes(300))
    (tmp_path / "more").mkdir()
    write_low_pass(tmp_path / "more/B.WAV", rate=32000)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/folder").symlink_to(tmp_path / "more")
    (tmp_path / "linked/c.wav").symlink_to(tmp_path / "a.wav")
    assert len(load_responses(tmp_path, sample_rate=32000, level="unit_energy")) == 3
    assert len(load_responses(tmp_path / "linked", sample_rate=32000, level="unit_energy")) == 2


def test_a_folder_without_audio_says_what_is_expected(tmp_path):
    with pytest.raises(
        DataError, match=r"holds no impulse response: \.flac, \.mp3, \.ogg, \.wav files are expected there"
    ):
        load_responses(tmp_path, sample_rate=32000, level="unit_energy")


@pytest.mark.slow
@pytest.mark.skipif(not MICIRP.is_dir(), reason="the MicIRP responses are not part of the project")
def test_micirp_is_convolved_whole():
    bank = load_responses(MICIRP, sample_rate=32000, level="unit_energy")
    assert len(bank) == 66
    clips = torch.randn(66, 8000, generator=torch.Generator().manual_seed(0))
    heard = bank.convolve(clips, torch.arange(66))
    for clip, response, delay, found in zip(clips, bank.responses, bank.delays.tolist(), heard, strict=True):
        assert response.abs().argmax() == delay
        assert found.numpy() == pytest.approx(fftconvolve(clip, response)[delay : delay + 8000], abs=1e-4)
