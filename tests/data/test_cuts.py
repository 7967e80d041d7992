"""Files of any length as clips: the same samples as decoded at once, in the memory of a few seconds."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptf.data.cuts import cut_file
from adaptf.data.decode import AudioError, Resampler, decode, read_mono, seconds_of

CLIP = 16000


def noise(path: Path, *, rate: int, samples: int, channels: int = 1) -> Path:
    """In blocks: libsndfile writes no long OGG file at once."""
    random = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", rate, channels) as file:
        for begin in range(0, samples, 2**14):
            file.write(0.1 * random.standard_normal((min(2**14, samples - begin), channels)))
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_file_in_parts_has_the_samples_that_it_has_as_a_whole(
    suffix: str, rate: int, tmp_path: Path
) -> None:
    path = noise(tmp_path / f"long.{suffix}", rate=rate, samples=rate * 20 + 1234, channels=2)
    cuts = list(cut_file(path, Resampler(16000), clip_samples=CLIP))
    assert {len(cut.clip) for cut in cuts[:-1]} == {CLIP} and 0 < len(cuts[-1].clip) <= CLIP
    assert np.array_equal(np.concatenate([cut.clip for cut in cuts]), decode(path, sample_rate=16000))
    heard, _ = read_mono(path)
    assert np.array_equal(np.concatenate([cut.source for cut in cuts]), heard)


def test_files_of_many_clips_that_were_joined_are_cut_as_one(tmp_path: Path) -> None:
    one = noise(tmp_path / "one.flac", rate=44100, samples=100_000).read_bytes()
    (tmp_path / "both.flac").write_bytes(one + one)
    cuts = list(cut_file(tmp_path / "both.flac", Resampler(16000), clip_samples=CLIP))
    assert sum(len(cut.source) for cut in cuts) == 200_000


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "copies"), [("wav", 0), ("flac", 0), ("mp3", 3)])
def test_memory_does_not_grow_with_the_samples_of_a_file(suffix: str, copies: int, tmp_path: Path) -> None:
    """That of an MP3 does with its bytes."""
    samples = 8 * 2**20
    path = noise(tmp_path / f"hours.{suffix}", rate=8000, samples=samples)
    tracemalloc.start()
    try:
        seconds_of(path)
        cuts = sum(1 for _ in cut_file(path, Resampler(16000), clip_samples=CLIP))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cuts == -(-samples // 8000)
    assert peak < 4 * samples / 2 + copies * path.stat().st_size  # bytes of half the samples


def test_a_file_that_breaks_off_says_so_after_the_parts_before(tmp_path: Path) -> None:
    path = noise(tmp_path / "broken.flac", rate=16000, samples=16000 * 60)
    path.write_bytes(path.read_bytes()[:-4000])
    cuts = cut_file(path, Resampler(16000), clip_samples=CLIP)
    assert len(next(cuts).clip) == CLIP
    with pytest.raises(AudioError):
        list(cuts)
