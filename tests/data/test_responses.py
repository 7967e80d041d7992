"""Measured impulse responses from a folder."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptf.data.errors import DataError
from adaptf.data.responses import load_responses

MICIRP = Path(__file__).parents[3] / "shared/data/micirp"


def write(path, *, rate, peak_at, samples=4000):
    """A decaying noise whose highest sample comes late."""
    response = np.zeros(samples)
    tail = np.random.default_rng(peak_at).standard_normal(samples - peak_at) * np.exp(-np.arange(samples - peak_at) / 300)
    response[peak_at:] = 0.1 * tail
    response[peak_at] = 0.9
    soundfile.write(path, response, rate, subtype="FLOAT")


def test_responses_of_any_rate_are_aligned_by_their_peak_and_have_unit_energy(tmp_path):
    for place, rate in enumerate((32000, 44100, 48000)):
        write(tmp_path / f"{place}.wav", rate=rate, peak_at=10 + 40 * place)
    responses = load_responses(tmp_path, sample_rate=32000).responses.numpy()
    assert len(responses) == 3
    assert (np.abs(responses).argmax(axis=1) == 0).all()
    assert np.square(responses).sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def test_shorter_responses_end_in_zeros(tmp_path):
    write(tmp_path / "long.wav", rate=32000, peak_at=5, samples=4000)
    write(tmp_path / "short.flac.wav", rate=32000, peak_at=5, samples=1000)
    responses = load_responses(tmp_path, sample_rate=32000).responses
    assert responses.shape == (2, 3995)
    assert not responses[1, 995:].any()


def test_all_files_that_cannot_be_used_are_named_at_once(tmp_path):
    write(tmp_path / "good.wav", rate=44100, peak_at=5)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "silent.wav", np.zeros(100), 44100)
    with pytest.raises(DataError, match=r"2 problems in the impulse responses of ") as error:
        load_responses(tmp_path, sample_rate=32000)
    assert "broken.wav: not readable as audio (" in str(error.value)
    assert "silent.wav: it is silent" in str(error.value)


def test_hidden_files_are_none_and_links_are_followed(tmp_path):
    write(tmp_path / "a.wav", rate=32000, peak_at=5)
    (tmp_path / "._a.wav").write_bytes(bytes.fromhex("0005160700020000") + bytes(300))
    (tmp_path / "more").mkdir()
    write(tmp_path / "more/B.WAV", rate=32000, peak_at=9)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/folder").symlink_to(tmp_path / "more")
    (tmp_path / "linked/c.wav").symlink_to(tmp_path / "a.wav")
    assert len(load_responses(tmp_path, sample_rate=32000).responses) == 3
    assert len(load_responses(tmp_path / "linked", sample_rate=32000).responses) == 2


def test_a_folder_without_audio_says_what_is_expected(tmp_path):
    with pytest.raises(DataError, match=r"holds no impulse response: \.flac, \.mp3, \.ogg, \.wav files are expected there"):
        load_responses(tmp_path, sample_rate=32000)


@pytest.mark.skipif(not MICIRP.is_dir(), reason="the MicIRP responses are not part of the project")
def test_micirp_is_read_whole():
    responses = load_responses(MICIRP, sample_rate=32000).responses
    assert len(responses) == 66
    assert (responses[:, 0].abs() == responses.abs().amax(dim=1)).all()
