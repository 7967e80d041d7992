"""Work folders of runs: kept where they hold something."""

from pathlib import Path

import pytest
from filelock import FileLock

from adaptf.errors import UserError
from adaptf.tracking.work_folder import work_folder


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTF_WORK", str(tmp_path))


def test_a_work_folder_that_holds_something_is_kept():
    with pytest.raises(UserError, match="interrupted"), work_folder("train", "kept") as folder:
        (folder / "last.ckpt").touch()
        raise UserError("interrupted")
    assert (folder / "last.ckpt").exists()


def test_a_work_folder_is_there_although_its_former_holder_removed_it(monkeypatch):
    acquire = FileLock.acquire

    def acquire_late(lock: FileLock, **given: object) -> object:
        Path(lock.lock_file).with_suffix("").rmdir()
        return acquire(lock, **given)

    monkeypatch.setattr(FileLock, "acquire", acquire_late)
    with work_folder("train", "late") as folder:
        assert folder.is_dir()
