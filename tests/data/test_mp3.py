"""MP3 files whose headers lie:
every sample that is there is decoded, and none is lost or made up without a word."""

import io
import struct

import numpy as np
import pytest
import soundfile

from adaptf.data.decode import AudioError, decode, read_mono, seconds_of
from adaptf.data.mp3 import ENCODERS_NOTE, mp3_blocks

RATE = 44100
FRAME_SECONDS = 1152 / RATE


def noise(seconds, rate=RATE, channels=1, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))


def mp3(samples, rate=RATE, mode="CONSTANT", level=0.5):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="MP3", bitrate_mode=mode, compression_level=level)
    return file.getvalue()


def without_note(content):
    """From the second frame on, which begins as the first does."""
    return content[content.index(content[:2], ENCODERS_NOTE.match(content).end() + 140) :]


def with_frames(content, frames):
    """The encoder's note with another count of frames."""
    place = ENCODERS_NOTE.match(content).end() + 4
    return content[:place] + struct.pack(">I", frames) + content[place + 4 :]


def id3(size):
    return b"ID3\x03\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + b"\1" * size


def ape(size):
    """An APEv2 tag with header and footer."""
    header, footer = (
        b"APETAGEX" + struct.pack("<IIII8x", 2000, size + 32, 1, flags) for flags in (0xA0000000, 0x80000000)
    )
    return header + b"\2" * size + footer


def read_mp3(content, **limit):
    """All samples, and their rate."""
    blocks = list(mp3_blocks(content, **limit))
    return np.concatenate([block for block, _ in blocks]), blocks[0][1]


def seconds(content):
    samples, rate = read_mp3(content)
    return len(samples) / rate


SIX = mp3(noise(6))
QUIET_THEN_LOUD = np.concatenate([noise(2) * 0.0005, noise(2)])


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 24000, 32000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
def test_a_file_that_tells_the_truth_gives_what_soundfile_gives(rate, channels, mode):
    content = mp3(noise(0.7, rate, channels), rate, mode)
    samples, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    heard, own_rate = read_mp3(content)
    assert (own_rate, heard.shape) == (rate, (round(0.7 * rate),))
    np.testing.assert_allclose(heard, samples.mean(axis=1), atol=1e-6)


LIES = {
    "cover picture": (id3(300_000) + without_note(SIX), 6),
    "variable rate without a count": (without_note(mp3(QUIET_THEN_LOUD, mode="VARIABLE")), 4),
    "two joined": (SIX + mp3(noise(2)), 8),
    "two joined with tags": (id3(400) + SIX + b"TAG" + bytes(125) + id3(90_000) + mp3(noise(2)), 8),
    "two joined without notes": (without_note(SIX) + without_note(SIX), 12),
    "mono and stereo joined": (SIX + mp3(noise(2, channels=2)), 8),
    "a count that is too small": (with_frames(SIX, 10), 6),
    "a count that is too large": (with_frames(SIX, 10**6), 6),
    "a count of zero": (with_frames(SIX, 0), 6),
    "tags at the end": (SIX + ape(50_000) + b"TAG" + bytes(125), 6),
    "a tag of its own kind at the end": (SIX + b"LYRICSBEGIN" * 500, 6),
    "a reserve of zeros at the end": (SIX + bytes(200_000), 6),
    "several tags in front": (id3(300) + id3(5000) + SIX, 6),
}


@pytest.mark.parametrize(("content", "true_seconds"), LIES.values(), ids=LIES.keys())
def test_the_decoded_length_counts(content, true_seconds, tmp_path):
    assert seconds(content) == pytest.approx(true_seconds, abs=0.1)
    (tmp_path / "x.mp3").write_bytes(content)
    assert seconds_of(tmp_path / "x.mp3") == pytest.approx(true_seconds, abs=0.1)
    assert len(decode(io.BytesIO(content), sample_rate=32000)) / 32000 == pytest.approx(true_seconds, abs=0.1)


def test_joined_files_are_each_without_what_their_encoder_added():
    parts = [mp3(noise(2, seed=seed)) for seed in range(3)]
    joined = read_mp3(b"".join(parts))[0]
    assert np.array_equal(joined, np.concatenate([read_mp3(part)[0] for part in parts]))


def test_of_a_file_that_was_cut_off_all_whole_frames_are_left():
    cut = seconds(SIX[: len(SIX) // 2])
    assert 3 - 3 * FRAME_SECONDS < cut < 3 + FRAME_SECONDS


@pytest.mark.parametrize("damage", [bytes(30_000), b"\x55" * 30_000])
def test_damage_in_the_middle_is_said_with_its_place(damage):
    place = len(SIX) // 3
    with pytest.raises(AudioError, match=r"it can't be decoded beyond 2\.0 s: it is damaged there"):
        read_mono(io.BytesIO(SIX[:place] + damage + SIX[place:]))


def test_a_few_damaged_bytes_cost_a_few_frames_as_with_any_player():
    place = len(SIX) // 3
    assert 5.8 < seconds(SIX[:place] + b"\x55" * 300 + SIX[place + 300 :]) <= 6


@pytest.mark.parametrize("second", [mp3(noise(4, 22050), 22050), mp3(noise(4, 48000), 48000)])
def test_joined_files_of_different_rates_are_refused(second):
    with pytest.raises(AudioError, match=r"its rate changes: parts of it have \d+ and \d+ samples a second"):
        read_mono(io.BytesIO(SIX + second))
    with pytest.raises(AudioError, match="or another rate begins"):
        read_mono(io.BytesIO(without_note(SIX) + without_note(second)))


def test_no_more_than_wanted_is_decoded():
    samples = read_mp3(mp3(noise(30)) + mp3(noise(30)), max_seconds=2)[0]
    assert 2 * RATE <= len(samples) < 5 * RATE


@pytest.mark.parametrize(
    ("content", "limit_seconds"),
    [(SIX + mp3(noise(2)), 6), (SIX, (2 * 2**16 - 500) / RATE)],
    ids=["a stream begins at the limit", "a block of decoding ends at the limit"],
)
def test_longer_audio_is_always_seen_to_be_longer(content, limit_seconds):
    assert seconds(content) > limit_seconds
    assert len(read_mp3(content, max_seconds=limit_seconds)[0]) / RATE > limit_seconds


def test_a_file_is_read_though_its_resource_fork_lies_beside_it(tmp_path):
    """Of a copy made by macOS: `._name` holds what its file system keeps beside a file."""
    (tmp_path / "rec.mp3").write_bytes(SIX)
    (tmp_path / "._rec.mp3").write_bytes(bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(400))
    assert seconds_of(tmp_path / "rec.mp3") == pytest.approx(6)
    assert np.array_equal(read_mono(tmp_path / "rec.mp3")[0], read_mp3(SIX)[0])
