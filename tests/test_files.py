"""Files that several processes write at once."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from adaptf.files import write_atomically, written_aside


def test_writers_of_one_process_id_do_not_meet(tmp_path):
    """Containers that share a folder have the same ids; threads of this process do, too."""
    path = tmp_path / "table"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda text: write_atomically(path, text, flush=False), [b"one", b"two"] * 300))
    assert path.read_bytes() in (b"one", b"two")
    assert list(tmp_path.iterdir()) == [path]


def test_what_ends_early_leaves_the_former_file_alone(tmp_path):
    path = tmp_path / "table"
    path.write_text("former")
    with pytest.raises(OSError, match="disk full"), written_aside(path) as aside:
        aside.write_text("hal")
        raise OSError("disk full")
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_on_the_disk_before_and_after_the_move(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda opened: synced.append(os.readlink(f"/proc/self/fd/{opened}")))
    write_atomically(tmp_path / "table", b"whole")
    aside, folder = synced
    assert aside.startswith(f"{tmp_path}/.table.")
    assert folder == str(tmp_path)
