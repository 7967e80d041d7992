"""Listing of a folder as folders are in the wild."""

import os

import pytest

from adaptf.data.errors import DataError
from adaptf.data.folders import files_below


def listed(root):
    return files_below(root, suffixes={".wav", ".mp3"})


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_files_of_any_depth_case_and_name_are_found(tmp_path):
    names = ["A.WAV", "b c/é ü.wav", "b c/d/e.Mp3", "公园/🎤.wav", "n\nl.wav", "two.dots.wav", "#t=.wav"]
    write(tmp_path, *names, "notes.txt", "wav", "x.wave")
    assert listed(tmp_path) == sorted(names)


def test_hidden_files_and_folders_are_none_of_ours(tmp_path):
    write(
        tmp_path,
        "a.wav",
        "._a.wav",
        ".DS_Store",
        ".Trashes/b.wav",
        "c/.AppleDouble/d.wav",
        "Thumbs.db",
        "c/._e.mp3",
    )
    assert listed(tmp_path) == ["a.wav"]


def test_links_to_files_and_folders_are_followed(tmp_path):
    write(tmp_path / "there", "a.wav", "b/c.wav")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/folder").symlink_to(tmp_path / "there")
    (tmp_path / "root/file.wav").symlink_to(tmp_path / "there/a.wav")
    (tmp_path / "link").symlink_to(tmp_path / "root")
    for root in (tmp_path / "root", tmp_path / "link"):
        assert listed(root) == ["file.wav", "folder/a.wav", "folder/b/c.wav"]


def test_a_circle_of_links_ends_and_each_folder_is_listed_once_by_its_own_name(tmp_path):
    write(tmp_path, "b/c.wav", "b/d/e.wav")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b/d/up").symlink_to(tmp_path)
    (tmp_path / "b/d/self").symlink_to(tmp_path / "b/d/self")
    assert listed(tmp_path) == ["b/c.wav", "b/d/e.wav"]


def test_what_is_no_file_is_left_out(tmp_path):
    write(tmp_path, "a.wav", "folder.wav/b.wav")
    (tmp_path / "broken.wav").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.wav")
    write(tmp_path, os.fsdecode(b"no \xff utf-8.wav"))
    assert listed(tmp_path) == ["a.wav", "folder.wav/b.wav"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path, "a.wav", "locked/b.wav")

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    original = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(
        DataError, match=r"the folder .*/locked may not be read \(Permission denied\): allow it"
    ):
        listed(tmp_path)
