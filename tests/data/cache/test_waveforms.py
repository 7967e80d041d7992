"""Reading the waveform cache."""

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from adaptf.data.cache import shards
from adaptf.data.cache.build import build_cache
from adaptf.data.cache.shards import CacheFormat
from adaptf.data.cache.waveforms import open_cache
from adaptf.data.decode import decode
from adaptf.data.errors import DataError
from adaptf.data.parquet import write_table

FORMAT = CacheFormat(sample_rate=32000, clip_samples=32000)


@pytest.fixture
def built(tau, names, tmp_path):
    return build_cache(tau, names, cache_root=tmp_path / "cache", format=FORMAT)


@pytest.fixture
def small_shards(monkeypatch):
    """Ten clips in a shard, so that 36 clips need four."""
    for module in ("shards", "waveforms", "build"):
        monkeypatch.setattr(f"adaptf.data.cache.{module}.CLIPS_PER_SHARD", 10)


def rows(built, places):
    return built.waveforms.rows_of(list(built.clips["key"]))[places]


def test_cached_clips_are_the_decoded_files_exactly(tau, names, built):
    places = [7, 0, 35, 7]
    expected = np.stack([decode(tau / names[place], sample_rate=32000) for place in places])
    assert torch.equal(built.waveforms.read(rows(built, places)), torch.from_numpy(expected))


def test_a_batch_over_several_shards_keeps_its_order(small_shards, tau, names, tmp_path):
    built = build_cache(tau, names, cache_root=tmp_path / "small", format=FORMAT)
    assert len(list(built.waveforms.folder.glob("*.samples"))) == 4
    places = np.random.default_rng(0).permutation(36)
    expected = np.stack([decode(tau / names[place], sample_rate=32000) for place in places])
    assert torch.equal(built.waveforms.read(rows(built, places)), torch.from_numpy(expected))


def test_parts_of_clips_are_read_from_their_first_sample(built):
    places, starts = [4, 9], np.array([100, 31000])
    whole = built.waveforms.read(rows(built, places))
    parts = built.waveforms.read(rows(built, places), first_sample=starts, samples=500)
    assert torch.equal(parts[0], whole[0, 100:600])
    assert torch.equal(parts[1], whole[1, 31000:31500])


def test_int16_takes_half_the_space_and_rounds_to_half_a_step(tau, names, built, tmp_path):
    halved = build_cache(tau, names, cache_root=tmp_path / "cache", format=CacheFormat(32000, 32000, "int16"))
    exact, rounded = built.waveforms.read(rows(built, [1, 2])), halved.waveforms.read(rows(halved, [1, 2]))
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() <= 2**-16
    sizes = [
        sum(path.stat().st_size for path in made.waveforms.folder.glob("*.samples"))
        for made in (built, halved)
    ]
    assert sizes[0] == 2 * sizes[1]


@pytest.mark.parametrize(("sample_type", "bytes_per_clip"), [("float32", 128_120), ("int16", 64_120)])
def test_the_folder_stays_within_its_size_per_clip(tau, tmp_path, sample_type, bytes_per_clip):
    """Each name a clip of its own, as long as TAU's names are."""
    names = [f"audio/street_pedestrian-barcelona-{1000 + i}-{40000 + i}-{i % 10}-s1.wav" for i in range(300)]
    generator = np.random.default_rng(0)
    for name in names:
        samples = np.int16(1000 * generator.standard_normal(44100))
        soundfile.write(tau / name, samples, 44100, subtype="PCM_16")
    build_cache(tau, names, cache_root=tmp_path / "cache", format=CacheFormat(32000, 32000, sample_type))
    size = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert size <= bytes_per_clip * len(names)


def test_a_clip_that_is_not_cached_is_named(built):
    with pytest.raises(DataError, match="the clip with the content 0123 is not cached"):
        built.waveforms.rows_of(["0123"])


def test_a_cache_that_does_not_exist_holds_nothing(tmp_path):
    assert len(open_cache(tmp_path, FORMAT)) == 0


@pytest.mark.parametrize("part", ["0000.parquet", "0000.samples"])
def test_a_cache_with_a_truncated_part_is_refused(built, tmp_path, part):
    path = built.waveforms.folder / part
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(
        DataError, match=r"can't be used, shard .*0000\.samples: .*Delete the folder .* and run"
    ):
        open_cache(tmp_path / "cache", FORMAT)


def test_a_manifest_of_another_cache_is_refused(built, tmp_path):
    shard = shards.Shard(built.waveforms.folder, 0, FORMAT)
    row = [["k", "0" * 16, 32000, 0.1, 0.1, 0.0, 0.0, ""]]
    columns = list(shards.MANIFEST_TYPES)
    for table, message in (
        (pd.DataFrame(columns=columns[1:]), "its manifest or its samples are unreadable"),
        (pd.DataFrame(row * 2, columns=columns), "stands in the manifests twice"),
        (pd.DataFrame(row * 8193, columns=columns), "its manifest has 8193 rows, at most 8192 are expected"),
    ):
        write_table(shard.manifest_path, table)
        with pytest.raises(DataError, match=message):
            open_cache(tmp_path / "cache", FORMAT)


def test_a_cache_with_manifests_of_a_former_version_is_read_and_grows(tau, names, tmp_path):
    """They were compressed CSV files."""
    some = build_cache(tau, names[:30], cache_root=tmp_path / "cache", format=FORMAT)
    shard = shards.Shard(some.waveforms.folder, 0, FORMAT)
    former = shard.manifest_path.with_suffix(".csv.gz")
    shard.read_manifest().to_csv(former, index=False)
    shard.manifest_path.unlink()
    pd.testing.assert_frame_equal(open_cache(tmp_path / "cache", FORMAT).index, some.waveforms.index)
    modified = shard.samples_path.stat().st_mtime_ns
    assert build_cache(tau, names[:30], cache_root=tmp_path / "cache", format=FORMAT).clips.equals(some.clips)
    assert shard.samples_path.stat().st_mtime_ns == modified
    grown = build_cache(tau, names, cache_root=tmp_path / "cache", format=FORMAT)
    expected = np.stack([decode(tau / name, sample_rate=32000) for name in names])
    assert torch.equal(grown.waveforms.read(rows(grown, np.arange(len(names)))), torch.from_numpy(expected))


def test_a_shard_missing_between_others_is_refused(small_shards, tau, names, tmp_path):
    built = build_cache(tau, names, cache_root=tmp_path / "small", format=FORMAT)
    (built.waveforms.folder / "0001.parquet").unlink()
    with pytest.raises(DataError, match=r"0001\.samples: its manifest is missing"):
        open_cache(tmp_path / "small", FORMAT)


def test_a_short_shard_before_others_is_refused(small_shards, tau, names, tmp_path):
    built = build_cache(tau, names, cache_root=tmp_path / "small", format=FORMAT)
    shard = shards.Shard(built.waveforms.folder, 1, FORMAT)
    shard.write_manifest(shard.read_manifest().values.tolist()[:-1])
    with pytest.raises(DataError, match="it has 9 rows and is not the last one"):
        open_cache(tmp_path / "small", FORMAT)
