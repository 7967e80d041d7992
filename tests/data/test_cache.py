import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch

from adaptf.data.cache import CacheSettings, build_cache, open_cache
from adaptf.data.decode import decode
from adaptf.data.errors import DataError

EXACT = CacheSettings(sample_rate=32000, clip_samples=32000, length="exact")
FITTED = CacheSettings(sample_rate=32000, clip_samples=32000, length="pad_or_cut")


@pytest.fixture
def names(tau):
    return sorted(path.relative_to(tau).as_posix() for path in tau.rglob("*.wav"))


def test_cached_clips_are_the_decoded_files_exactly(tau, names, tmp_path):
    cache = build_cache(tau, names, cache_root=tmp_path / "cache", settings=EXACT)
    rows = np.array([7, 0, 35])
    expected = np.stack([decode(tau / names[row], sample_rate=32000) for row in rows])
    assert torch.equal(cache.read(rows), torch.from_numpy(expected))


def test_a_second_build_decodes_nothing(tau, names, tmp_path, monkeypatch):
    first = build_cache(tau, names, cache_root=tmp_path / "cache", settings=EXACT)
    monkeypatch.setattr("adaptf.data.cache.decode", lambda *args, **kwargs: pytest.fail("decoded again"))
    assert build_cache(tau, names, cache_root=tmp_path / "cache", settings=EXACT) == first


def test_a_changed_file_makes_another_cache(tau, names, tmp_path):
    first = build_cache(tau, names, cache_root=tmp_path / "cache", settings=EXACT)
    soundfile.write(tau / names[0], np.full(44100, 0.25), 44100)
    second = build_cache(tau, names, cache_root=tmp_path / "cache", settings=EXACT)
    assert first.digest != second.digest
    assert second.read(np.array([0])).mean() == pytest.approx(0.25, abs=0.01)


def test_another_setting_makes_another_cache(tau, names, tmp_path):
    first = build_cache(tau, names, cache_root=tmp_path / "cache", settings=EXACT)
    assert build_cache(tau, names, cache_root=tmp_path / "cache", settings=FITTED).digest != first.digest


def test_missing_files_are_named(tau, names, tmp_path):
    (tau / names[3]).unlink()
    with pytest.raises(DataError, match=f"{names[3]}: the file is missing"):
        build_cache(tau, names, cache_root=tmp_path / "cache", settings=EXACT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable as audio"),
        (b"RIFF\x10\x00\x00\x00WAVEjunk", "not readable as audio"),
        (b"this is no audio at all", "not readable as audio"),
    ],
)
def test_broken_files_are_named_with_what_is_wrong(tau, names, tmp_path, content, message):
    (tau / names[5]).write_bytes(content)
    with pytest.raises(DataError, match=f"{names[5]}: {message}"):
        build_cache(tau, names, cache_root=tmp_path / "cache", settings=EXACT)
    assert not list((tmp_path / "cache").glob("*/")), "a failed build must leave no cache"


def test_a_wrong_length_is_an_error_where_clips_have_one(tau, names, tmp_path):
    soundfile.write(tau / names[2], np.zeros(22050), 44100)
    with pytest.raises(DataError, match=f"{names[2]}: 0.500 s long, expected 1.000 s"):
        build_cache(tau, names, cache_root=tmp_path / "cache", settings=EXACT)


def test_other_lengths_are_padded_or_cut_where_that_is_asked_for(tau, names, tmp_path):
    soundfile.write(tau / names[0], np.full(16000, 0.5), 32000)
    soundfile.write(tau / names[1], np.full(48000, 0.5), 32000)
    cache = build_cache(tau, names, cache_root=tmp_path / "cache", settings=FITTED)
    padded, cut = cache.read(np.array([0, 1]))
    assert padded[:16000].min() > 0.49
    assert padded[16000:].abs().max() == 0
    assert cut.min() > 0.49


def test_stereo_is_averaged(tau, names, tmp_path):
    soundfile.write(tau / names[0], np.stack([np.full(32000, 0.5), np.full(32000, -0.1)], axis=1), 32000)
    cache = build_cache(tau, names, cache_root=tmp_path / "cache", settings=EXACT)
    assert cache.read(np.array([0])).mean() == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize("part", ["manifest.csv", "settings.json", "waveforms.f32"])
def test_a_cache_with_a_damaged_part_is_refused(tau, names, tmp_path, part):
    cache = build_cache(tau, names, cache_root=tmp_path / "cache", settings=EXACT)
    path = cache.folder / part
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"can't be used: .*Delete this folder and run `prepare` again"):
        open_cache(cache.folder)


def test_parts_of_clips_are_read_from_their_first_sample(tau, names, tmp_path):
    cache = build_cache(tau, names, cache_root=tmp_path / "cache", settings=EXACT)
    rows, starts = np.array([4, 9]), np.array([100, 31000])
    whole, parts = cache.read(rows), cache.read(rows, first_sample=starts, samples=500)
    assert torch.equal(parts[0], whole[0, 100:600])
    assert torch.equal(parts[1], whole[1, 31000:31500])


def test_a_build_killed_in_the_middle_is_not_taken_for_a_cache_and_can_be_repeated(tau, names, tmp_path):
    """The child decodes each file slowly and is killed once it has begun."""
    program = f"""
import sys, time
import adaptf.data.cache as cache
from pathlib import Path
fast = cache.decode
def slow(*args, **kwargs):
    print("decoding", flush=True)
    time.sleep(0.2)
    return fast(*args, **kwargs)
cache.decode = slow
settings = cache.CacheSettings(32000, 32000, "exact")
cache.build_cache(Path({str(tau)!r}), {names!r}, cache_root=Path({str(tmp_path / "cache")!r}), settings=settings)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(0.3)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    cache = build_cache(tau, names, cache_root=tmp_path / "cache", settings=EXACT)
    expected = np.stack([decode(tau / name, sample_rate=32000) for name in names])
    assert torch.equal(cache.read(np.arange(len(names))), torch.from_numpy(expected))
