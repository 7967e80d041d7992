"""What ends a stage and is no fault of the program:
a message in the place of a traceback, before any work where it can."""

import errno
import os
import shutil
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import mlflow
import pytest

from adaptf.errors import UserError
from adaptf.mlproject.promote import PromoteConfig
from adaptf.pipeline import outside
from adaptf.pipeline.stage import Stage, execute
from adaptf.tracking.outcome import Result

FULL = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs -o size=4k tmpfs "$TMPDIR" && echo full > "$TMPDIR/x" && exec "$0" "$@"',
]
"""Runs a command with a folder for temporary files that holds nothing more."""
CAN_MOUNT = (
    bool(shutil.which("unshare"))
    and not subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode
)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADAPTF_WORK", str(tmp_path / "work"))
    return tmp_path


def test_what_the_system_refuses_is_said_with_the_places_that_stages_write_to(work: Path) -> None:
    for number in (errno.ENOSPC, errno.EACCES, errno.EROFS):
        told = outside.message(OSError(number, os.strerror(number), "/data/last.ckpt"))
        assert told and told.startswith(f"{os.strerror(number)} (/data/last.ckpt). Stages write to ")
        assert f"{work / 'work'} (ADAPTF_WORK)" in told and "GB are free (TMPDIR)" in told
    assert "ended from outside" in str(outside.message(BrokenProcessPool()))
    assert (
        outside.message(MemoryError("Unable to allocate 8 GiB"))
        == "memory is short: Unable to allocate 8 GiB"
    )
    for fault in (
        FileNotFoundError(errno.ENOENT, "no such file"),
        ValueError("of the program"),
        RuntimeError(),
    ):
        assert outside.message(fault) is None


def test_a_work_folder_where_nothing_can_be_written_is_refused_before_any_work(work: Path) -> None:
    (work / "work").write_text("no folder")
    with pytest.raises(UserError, match=r"ADAPTF_WORK.* is '.*/work', where no file can be written"):
        outside.check_places()


@pytest.mark.slow
@pytest.mark.skipif(not CAN_MOUNT, reason="no folder of four kilobytes can be mounted here")
def test_a_full_tmpdir_is_said_before_any_work(work: Path, empty_database: Path) -> None:
    (work / "tmp").mkdir()
    places = {
        "TMPDIR": str(work / "tmp"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{shutil.copy(empty_database, work)}",
    }
    command = [*FULL, sys.executable, "-m", "adaptf.mlproject.prepare", f"--data.root={work}"]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | places, cwd=work, timeout=300
    )
    assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stderr
    assert (
        f"prepare: TMPDIR, the folder for temporary files, is '{work}/tmp', where no file can be written (No "
        "space" in ended.stderr
    )


def test_artifacts_that_cannot_be_written_from_here_are_said_before_the_work(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    mlflow.create_experiment("elsewhere", artifact_location=(tmp_path / "file" / "artifacts").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    idle = Stage("idle", run=lambda config, run: Result(), config=PromoteConfig, reads=lambda config: "")
    with pytest.raises(
        UserError, match=r"no artifact can be written to .*file/artifacts.* from here: .*Not a directory"
    ):
        execute(idle, PromoteConfig(register_run="none"))
