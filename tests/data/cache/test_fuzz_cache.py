"""Damaged files of a cache, and a cache of damaged files: an error that says what is wrong,
or the right samples."""

import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from fixtures.fuzz import FORMAT, KINDS, audio_bytes, damaged, decoded, file_with, folder, fuzz
from hypothesis import given
from hypothesis import strategies as st

from adaptf.data.cache.build import build_cache
from adaptf.data.cache.waveforms import open_cache
from adaptf.data.errors import DataError

pytestmark = pytest.mark.slow


@fuzz(25)
@given(data=st.data())
def test_a_cache_of_damaged_files_has_the_problem_or_the_samples_of_each(data):
    """Each file is asked for twice: from its start, and from its second clip on, before which it may end."""
    with folder() as root:
        contents = {"whole.wav": audio_bytes(KINDS[0], seed=1)}
        for number, kind in enumerate(data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))):
            contents[f"{number}.wav"] = data.draw(damaged(audio_bytes(kind)))
        order = data.draw(st.permutations(list(contents)))
        for name, content in contents.items():
            (root / name).write_bytes(content)
        names = [clip for name in order for clip in (name, f"{name}#t=1")]
        built = build_cache(root, names, cache_root=root / "cache", format=FORMAT, workers=1)
        for name, row in zip(names, built.clips.itertuples(), strict=True):
            file, _, part = name.partition("#t=")
            waveform = decoded(root / file)
            expected = np.zeros(0) if waveform is None else waveform[FORMAT.clip_samples * int(part or 0) :]
            assert bool(row.problem) == (len(expected) == 0)
            if not row.problem:
                assert row.samples == len(expected)
                assert_same_clip(built.waveforms, row.key, expected)


@fuzz(50)
@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["x" * 300, "a.wav/b", "/"])
)
def test_names_that_no_file_has_are_missing_files(name):
    with (
        file_with(b"", "a.wav") as path,
        pytest.raises(DataError, match=r"the file is missing|it is a folder, not a file"),
    ):
        build_cache(path.parent, ["a.wav", name], cache_root=path.parent / "cache", format=FORMAT, workers=1)


def assert_same_clip(waveforms, key, expected):
    clip = waveforms.read(waveforms.rows_of([key]))[0].numpy()
    padded = np.pad(expected[: FORMAT.clip_samples], (0, max(0, FORMAT.clip_samples - len(expected))))
    assert np.array_equal(clip, padded)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A data set of ten files, one of them no audio, and its cache."""
    root = tmp_path_factory.mktemp("built")
    names = [f"{number}.wav" for number in range(10)]
    for number, name in enumerate(names):
        (root / name).write_bytes(b"no audio" if number == 4 else audio_bytes(KINDS[0], seed=number))
    build_cache(root, names, cache_root=root / "cache", format=FORMAT, workers=1)
    return root, names


def assert_right(built, waveforms, keys):
    """Every clip is that of its file."""
    root, names = built
    for name, key in zip(names, keys, strict=True):
        if (expected := decoded(root / name)) is not None:
            assert_same_clip(waveforms, key, expected)


@contextmanager
def cache_with(built, file, content):
    """A copy of the cache in which a file has another content."""
    root, _ = built
    with folder() as copy:
        shutil.copytree(root / "cache", copy, dirs_exist_ok=True)
        (copy / file).write_bytes(content)
        yield copy


def assert_says_what_to_do(error):
    assert "0000.samples" in str(error)
    assert "Delete the folder" in str(error)
    assert "run `prepare` again" in str(error)


@pytest.mark.parametrize("file", ["0000.parquet", "0000.samples"])
@fuzz(60)
@given(data=st.data())
def test_a_damaged_shard_is_refused_by_the_builder_or_right(built, file, data):
    root, names = built
    path = f"{FORMAT.folder_name}/{file}"
    with cache_with(built, path, data.draw(damaged((root / "cache" / path).read_bytes()))) as cache:
        try:
            again = build_cache(root, names, cache_root=cache, format=FORMAT, workers=1)
        except DataError as error:
            assert_says_what_to_do(error)
        else:
            assert [bool(problem) for problem in again.clips["problem"]] == [
                number == 4 for number in range(10)
            ]
            assert_right(built, again.waveforms, again.clips["key"])


@fuzz(100)
@given(data=st.data())
def test_a_flipped_bit_among_the_samples_is_found(built, data):
    root, names = built
    path = f"{FORMAT.folder_name}/0000.samples"
    content = bytearray((root / "cache" / path).read_bytes())
    row = data.draw(st.integers(0, 9).filter(lambda row: row != 4))
    content[row * FORMAT.row_bytes + data.draw(st.integers(0, FORMAT.row_bytes - 1))] ^= 1 << data.draw(
        st.integers(0, 7)
    )
    with (
        cache_with(built, path, bytes(content)) as cache,
        pytest.raises(DataError, match=f"the samples of row {row} ") as error,
    ):
        build_cache(root, names, cache_root=cache, format=FORMAT, workers=1)
    assert_says_what_to_do(error.value)


@fuzz(60)
@given(data=st.data())
def test_a_damaged_manifest_is_refused_by_readers_or_right(built, data):
    root, names = built
    keys = build_cache(root, names, cache_root=root / "cache", format=FORMAT, workers=1).clips["key"]
    path = f"{FORMAT.folder_name}/0000.parquet"
    with cache_with(built, path, data.draw(damaged((root / "cache" / path).read_bytes()))) as cache:
        try:
            waveforms = open_cache(cache, FORMAT)
        except DataError as error:
            assert_says_what_to_do(error)
        else:
            assert_right(built, waveforms, keys)


@fuzz(40)
@given(data=st.data())
def test_a_damaged_memory_of_hashes_costs_time_at_most(built, data):
    root, names = built
    with cache_with(
        built, "files.parquet", data.draw(damaged((root / "cache/files.parquet").read_bytes()))
    ) as cache:
        again = build_cache(root, names, cache_root=cache, format=FORMAT, workers=1)
        assert_right(built, again.waveforms, again.clips["key"])
