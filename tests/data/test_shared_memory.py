"""Shared memory that is too small for the batches of the workers:
a training ends with an error, and never waits."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adaptf.data.batch import WaveformBatch
from adaptf.data.clip_set import clip_set
from adaptf.data.data_module import ClipDataModule
from adaptf.data.loader import bytes_ahead, clip_loader
from adaptf.data.loading import Loading
from adaptf.data.shared_memory import SHARED_MEMORY, SharedMemoryFull

TOLD = r"shared memory \(/dev/shm\) are too little .*--shm-size=.*trainer\.workers=0"
SMALL = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$0" "$@"']
"""Runs a command with one megabyte of shared memory, as containers have 64."""
CAN_MOUNT = (
    bool(shutil.which("unshare"))
    and not subprocess.run([*SMALL, "true"], capture_output=True, check=False).returncode
)


class Ones:
    """Waveforms that lie nowhere."""

    memory, clip_bytes, held_bytes = None, 16000 * 4, 0

    def batch(self, rows, labels):
        return WaveformBatch(torch.ones(len(rows), 16000), labels)


def ones(clips):
    targets, devices = np.eye(clips, 2, dtype=np.float32), np.zeros(clips, dtype=np.int64)
    return clip_set([str(row) for row in range(clips)], Ones(), targets=targets, devices=devices)


def loader():
    """Batches of half a megabyte."""
    return clip_loader(ones(64), batch_size=8, loading=Loading(workers=2))


def module(*, workers, batch_size=8, processes=1):
    loading = Loading(workers=workers)
    made = ClipDataModule(ones(64), ones(8), batch_size=batch_size, seed=0, loading=loading)
    made.trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")), num_devices=processes
    )
    return made


def test_workers_hand_over_what_the_training_process_would_read():
    here = clip_loader(ones(20), batch_size=8, loading=Loading(workers=0), seed=1)
    there = clip_loader(ones(20), batch_size=8, loading=Loading(workers=2), seed=1)
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.waveforms, other.waveforms)
        assert all(np.array_equal(a, b) for a, b in zip(one.labels[:4], other.labels[:4], strict=True))
        assert one.labels[4:] == other.labels[4:]


def test_batches_ahead_are_those_of_the_workers_and_the_two_in_work():
    clip = 16000 * 4
    assert bytes_ahead(ones(64), batch_size=8, loading=Loading(workers=2)) == 6 * 8 * clip
    assert bytes_ahead(ones(20), batch_size=8, loading=Loading(workers=2)) == 3 * 8 * clip
    assert bytes_ahead(ones(5), batch_size=8, loading=Loading(workers=2)) == 5 * clip
    assert bytes_ahead(ones(64), batch_size=8, loading=Loading(workers=0)) == 0


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="this system has no /dev/shm")
def test_too_little_shared_memory_is_said_before_a_training_begins(monkeypatch):
    usage = SimpleNamespace(total=64e6, free=6 * 8 * 16000 * 4)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    module(workers=2).setup("fit")
    module(workers=0, batch_size=64).setup("fit")
    for refused in (module(workers=2, batch_size=32), module(workers=3), module(workers=2, processes=2)):
        with pytest.raises(SharedMemoryFull, match=f"^64 MB of {TOLD}"):
            refused.setup("fit")


@pytest.mark.slow
@pytest.mark.skipif(not CAN_MOUNT, reason="no shared memory of one megabyte can be mounted here")
def test_shared_memory_that_fills_later_ends_the_reading():
    script = "import test_shared_memory as test\nfor batch in test.loader():\n    pass"
    ended = subprocess.run(
        [*SMALL, sys.executable, "-c", script],
        cwd=__file__.rpartition("/")[0],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "adaptf.data.shared_memory.SharedMemoryFull: 1 MB of shared memory (/dev/shm) are too little"
    )
    assert "trainer.workers=0" in last
