"""Which files are read again, and what several processes remember at once."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from adaptf.data import hashes
from adaptf.data.hashes import hash_files, hash_of


@pytest.fixture
def files(tmp_path):
    """Of one size and time, as clips in an archive are."""
    folder = tmp_path / "audio"
    folder.mkdir()
    for name in "abcd":
        (folder / name).write_text(name * 100)
        os.utime(folder / name, (0, 0))
    return folder


@pytest.fixture
def hashed(files, tmp_path):
    """`hashed(names)`: content by name, as hash_files remembers and tells it."""

    def run(names="abcd", **options):
        with ThreadPoolExecutor(1) as pool:
            found = hash_files(files, list(names), memory_folder=tmp_path / "cache", pool=pool, **options)
        return {name: file.content for name, file in found.items()}

    return run


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read."""
    seen = []

    def hash_and_tell(path):
        seen.append(os.path.basename(path))
        return hash_of(path)

    monkeypatch.setattr(hashes, "hash_of", hash_and_tell)
    return seen


def contents(files):
    return {path.name: hash_of(str(path)) for path in sorted(files.iterdir())}


def test_a_file_that_did_not_change_is_read_once(hashed, read):
    assert hashed() == hashed()
    assert sorted(read) == [*"abcd"]


def test_swapped_files_of_one_size_and_time_are_read_again(files, hashed, read):
    hashed()
    (files / "a").rename(files / "former")
    (files / "b").rename(files / "a")
    (files / "former").rename(files / "b")
    read.clear()
    assert hashed() == contents(files)
    assert sorted(read) == ["a", "b"]


def test_a_file_written_over_and_given_its_former_time_is_read_again(files, hashed):
    hashed()
    with open(files / "c", "r+") as file:  # the inode stays
        file.write("x")
    os.utime(files / "c", (0, 0))
    assert hashed() == contents(files)


def test_all_files_are_read_where_nothing_but_their_bytes_can_tell(files, hashed, monkeypatch):
    monkeypatch.setattr(hashes, "state_of", lambda path: (path, 100, 0, 1, 0))  # as of a disk image
    hashed()
    (files / "a").write_text("x" * 100)
    assert hashed() != contents(files)
    assert hashed(read_all=True) == contents(files)
    assert hashed() == contents(files)


def test_two_that_hash_at_once_remember_what_both_have_read(hashed, read, monkeypatch):
    hash_all, both = hashes._hash_all, threading.Barrier(2, timeout=60)

    def together(paths, pool):
        both.wait()  # each has read the memory, neither has written it
        return hash_all(paths, pool)

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as processes:
        patch.setattr(hashes, "_hash_all", together)
        list(processes.map(hashed, ("ab", "cd")))
    read.clear()
    hashed()
    assert read == []
