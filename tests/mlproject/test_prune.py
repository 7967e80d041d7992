"""What `prune` takes away, and what it leaves, in a real store."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import mlflow
import numpy as np
import pytest
import soundfile
import torch
from fixtures.noise_data import RATE, write_tau
from mlflow import MlflowClient

from adaptf.data.cache.build import build_cache
from adaptf.data.cache.shards import CacheFormat
from adaptf.mlproject.prepare import PREPARE, PrepareConfig
from adaptf.mlproject.prune import PruneConfig, downloads, prune
from adaptf.pipeline.artifacts import QUANTIZE_RUN
from adaptf.pipeline.config import DataConfig
from adaptf.pipeline.stage import execute
from adaptf.tracking.tags import FINGERPRINT, STAGE, UPSTREAM

SCENES = ("airport", "bus")
FORMAT = CacheFormat(32000, 32000)
HELD = """
import sys, filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
MakeRun = Callable[..., str]


@pytest.fixture
def made(environment: dict[str, str]) -> MakeRun:
    """`made(stage, status, **upstream)`: id of a run that has nothing but tags;
    the fingerprint is its stage's name."""

    def make(stage: str, status: str = "FINISHED", **upstream: str) -> str:
        tags = {STAGE: stage, FINGERPRINT: f"{len(stage):x}" * 32}
        tags |= {f"{UPSTREAM}{name}": value for name, value in upstream.items()}
        experiment = mlflow.get_experiment_by_name("tests")
        run_id: str = MlflowClient().create_run(experiment.experiment_id, tags=tags).info.run_id
        MlflowClient().update_run(run_id, status=status)
        return run_id

    return make


def other_noise(root: Path) -> Path:
    """Twelve clips of their own."""
    generator = np.random.default_rng(1)
    write_tau(root, clips=1)
    for path in (root / "audio").iterdir():
        soundfile.write(path, 0.1 * generator.standard_normal(RATE), RATE)
    return root


@pytest.mark.slow
def test_shards_go_of_which_no_run_or_version_needs_a_clip(
    made: MakeRun, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("build", "waveforms", "shards"):
        monkeypatch.setattr(f"adaptf.data.cache.{module}.CLIPS_PER_SHARD", 12)
    roots = write_tau(folder / "tau", scenes=SCENES), other_noise(folder / "other")
    first, second = (
        execute(
            PREPARE,
            PrepareConfig(DataConfig(root=str(root), scenes=SCENES, cache=str(folder / "cache"), workers=1)),
        )
        for root in roots
    )

    def samples() -> list[str]:
        return sorted(path.stem for path in folder.glob("cache/*/*.samples"))

    def waveforms(root: Path) -> torch.Tensor:
        names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.wav"))
        built = build_cache(root, names, cache_root=folder / "cache", format=FORMAT)
        return built.waveforms.read(built.waveforms.rows_of(list(built.clips["key"])))

    before = [waveforms(root) for root in roots]
    client = MlflowClient()
    client.delete_run(first)
    trained = made("train", prepare_run=first)
    quantized = made("quantize", finetune_run=trained)
    client.create_registered_model("adaptf-a")
    client.create_model_version("adaptf-a", str(folder), tags={QUANTIZE_RUN: quantized})
    for run_id in (trained, quantized):
        client.delete_run(run_id)
    assert "shards" not in prune(PruneConfig(yes=True))  # the version came of runs that came of it

    client.delete_registered_model("adaptf-a")
    running = made("prepare", "RUNNING")
    assert "shards" not in prune(PruneConfig(yes=True))
    assert f"Waveform caches stay: what prepare run {running} needs" in capsys.readouterr().out

    client.delete_run(running)
    said = prune(PruneConfig())
    assert "3 shards of waveform caches: 0.00 GB" in said and "-P yes=true" in said
    assert samples() == ["0000", "0001", "0002", "0003"]
    prune(PruneConfig(yes=True))
    assert samples() == ["0003"]
    assert "shards" not in prune(PruneConfig())
    torch.testing.assert_close(waveforms(roots[1]), before[1], rtol=0, atol=0)
    assert samples() == ["0003"]  # nothing was decoded again
    torch.testing.assert_close(waveforms(roots[0]), before[0], rtol=0, atol=0)
    assert samples() == ["0003", "0004", "0005", "0006"]
    assert mlflow.get_run(second).info.lifecycle_stage == "active"


def test_work_folders_go_whose_runs_are_over(
    made: MakeRun, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = {"done": "FINISHED", "broken": "FAILED", "thrown away": "RUNNING", "at work": "FINISHED"}
    run_ids = {stage: made(stage, status) for stage, status in stages.items()}
    MlflowClient().delete_run(run_ids["thrown away"])
    folders = {stage: folder / "work" / f"{stage}-{f'{len(stage):x}' * 16}" for stage in (*stages, "unknown")}
    for path in folders.values():
        path.mkdir(parents=True)
        (path / "last.ckpt").write_bytes(b"x" * 1000)
    gone = folder / "work" / f"gone-{'0' * 16}.lock"
    gone.touch()
    lock = folders["at work"].with_suffix(".lock")
    holder = subprocess.Popen(
        [sys.executable, "-c", HELD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout and holder.stdin and holder.stdout.readline() == "held\n"

    said = prune(PruneConfig())
    assert "2 work folders" in said and "1 locks" in said
    assert all(path.is_dir() for path in folders.values()) and gone.exists()
    prune(PruneConfig(yes=True))
    assert [stage for stage, path in folders.items() if path.exists()] == ["broken", "at work", "unknown"]
    assert not gone.exists() and not folders["done"].with_suffix(".lock").exists() and lock.exists()
    printed = capsys.readouterr().out
    assert f"run {run_ids['broken']} can go on from it" in printed
    assert "no run of this store has made it" in printed and "another process works there" in printed
    holder.stdin.close()
    assert holder.wait(60) == 0


def test_of_downloads_goes_what_is_left_of_archives_that_are_unpacked(tmp_path: Path) -> None:
    ours, users = tmp_path / "tau" / "downloads", tmp_path / "recordings" / "downloads"
    for path in (ours, users):
        path.mkdir(parents=True)
        for name in ("a.zip", "a.zip1234.part", "a.zip.done", "b.zip", "b.zip1234.part", "notes.txt"):
            (path / name).touch()
    (ours / "lock").touch()
    with ExitStack() as locks:
        found = list(downloads([ours.parent, users.parent], locks))
    assert sorted(one.path for one in found) == [ours / "a.zip", ours / "a.zip1234.part"]
    for one in found:
        one.take()
    assert sorted(path.name for path in ours.iterdir()) == [
        "a.zip.done",
        "b.zip",
        "b.zip1234.part",
        "lock",
        "notes.txt",
    ]
