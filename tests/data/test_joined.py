"""Files written one behind the other into one are read whole."""

import io

import numpy as np
import pytest
import soundfile

from adaptf.data import decode
from adaptf.data.decode import AudioError, read_mono, seconds_of
from adaptf.data.joined import files_in

KINDS = [
    ("OGG", "VORBIS", 44100),
    ("OGG", "OPUS", 48000),
    ("FLAC", "PCM_16", 44100),
    ("FLAC", "PCM_24", 96000),
]


def encoded(seconds, rate, format, subtype, *, channels=1, seed=0):
    samples = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(("format", "subtype", "rate"), KINDS)
def test_the_samples_of_all_are_read_in_their_order(tmp_path, format, subtype, rate):
    parts = [
        encoded(seconds, rate, format, subtype, channels=1 + place, seed=place)
        for place, seconds in enumerate((2, 0.5))
    ]
    (tmp_path / "x").write_bytes(b"".join(parts))
    audio, own_rate = read_mono(tmp_path / "x")
    assert own_rate == rate
    assert np.array_equal(audio, np.concatenate([read_mono(io.BytesIO(part))[0] for part in parts]))
    assert seconds_of(tmp_path / "x") == len(audio) / rate == pytest.approx(2.5)


@pytest.mark.parametrize(("format", "subtype", "rate"), KINDS)
def test_of_one_file_alone_nothing_changes(format, subtype, rate):
    content = encoded(1, rate, format, subtype)
    samples, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    assert np.array_equal(read_mono(io.BytesIO(content))[0], samples)


def test_files_of_different_rates_are_refused():
    content = encoded(1, 44100, "OGG", "VORBIS") + encoded(1, 48000, "OGG", "OPUS")
    with pytest.raises(
        AudioError, match="its rate changes: parts of it have 44100 and 48000 samples a second"
    ):
        read_mono(io.BytesIO(content))
    with pytest.raises(AudioError, match="its rate changes"):
        seconds_of(io.BytesIO(content))


def test_streams_that_begin_together_are_one_file():
    first, second = encoded(1, 44100, "OGG", "VORBIS"), encoded(1, 44100, "OGG", "VORBIS", seed=1)
    page = first.index(b"OggS", 1)  # where the second page begins
    assert not files_in(first[:page] + second[:page] + first[page:] + second[page:], "OGG")
    assert len(files_in(first + second, "OGG")) == 2


def test_no_more_than_wanted_is_read():
    audio, rate = read_mono(io.BytesIO(encoded(20, 8000, "OGG", "VORBIS")), max_seconds=3)
    assert 3 * rate < len(audio) < 4 * rate


@pytest.mark.parametrize(("format", "subtype"), [("OGG", "VORBIS"), ("FLAC", "PCM_16")])
def test_of_many_joined_files_none_is_decoded_beyond_what_is_wanted(format, subtype, monkeypatch):
    read, original = [], decode._read_block
    monkeypatch.setattr(decode, "_read_block", lambda *given: read.append(original(*given)) or read[-1])
    content = encoded(1, 8000, format, subtype) * 50
    assert 3 < seconds_of(io.BytesIO(content), max_seconds=3) < 3.1
    assert [len(samples) for samples in read] == [8000, 8000, 8000, 2]
    assert seconds_of(io.BytesIO(content), max_seconds=60) == 50


def test_a_joined_file_that_goes_on_a_sample_before_the_limit_is_seen_to_be_longer():
    content = encoded(5 - 1 / 44100, 44100, "FLAC", "PCM_16") + encoded(2, 44100, "FLAC", "PCM_16")
    assert seconds_of(io.BytesIO(content), max_seconds=5) > 5
