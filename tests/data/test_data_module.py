"""Training clips by Lightning's data module, from the mapped file and from the memory of a device."""

from dataclasses import replace
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch

from adaptf.data.cache.build import build_cache
from adaptf.data.cache.shards import CacheFormat
from adaptf.data.clip_set import clip_set
from adaptf.data.data_module import ClipDataModule
from adaptf.data.loading import Loading, has_room
from adaptf.data.sources import CachedWaveforms, HeldWaveforms, Sample

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
IN_PROCESS = Loading(workers=0)


@pytest.fixture
def clips(tau, tmp_path):
    names = sorted(path.relative_to(tau).as_posix() for path in tau.rglob("*.wav"))
    waveforms = build_cache(
        tau, names, cache_root=tmp_path / "cache", format=CacheFormat(32000, 32000)
    ).waveforms
    rows = np.random.default_rng(0).permutation(36)
    devices = np.arange(36) % 3
    source = CachedWaveforms(waveforms, rows, Sample(32000))
    return clip_set(names, source, targets=np.eye(36, dtype=np.float32), devices=devices)


def module(clips, *, epoch=0, **loading):
    made = ClipDataModule(clips, clips, batch_size=7, seed=3, loading=replace(IN_PROCESS, **loading))
    strategy = SimpleNamespace(root_device=CPU)
    progress = SimpleNamespace(current=SimpleNamespace(processed=epoch))
    fit_loop = SimpleNamespace(epoch_progress=progress)
    made.trainer = SimpleNamespace(strategy=strategy, num_devices=1, fit_loop=fit_loop)
    made.setup("fit")
    return made


def batches(loader):
    return [batch for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_in_the_devices_memory_give_the_same_batches_as_the_mapped_file(clips, workers):
    mapped = batches(module(clips, keep_on_device="no", workers=workers).train_dataloader())
    kept = batches(module(clips, keep_on_device="yes", workers=workers).train_dataloader())
    assert len(mapped) == len(kept) == 6
    for one, other in zip(mapped, kept, strict=True):
        assert torch.equal(one.waveforms, other.waveforms)
        assert all(np.array_equal(a, b) for a, b in zip(one.labels[:4], other.labels[:4], strict=True))


def test_random_parts_are_the_same_in_the_devices_memory(clips):
    parts = replace(clips, source=replace(clips.source, sample=Sample(1000, random=True)))
    held = replace(parts, source=parts.source.held(CPU))
    assert torch.equal(held[[8, 2]].waveforms, parts[[8, 2]].waveforms)


def test_on_the_device_each_clip_is_read_from_the_cache_once(clips, monkeypatch):
    made = module(clips, keep_on_device="yes")
    assert isinstance(made.train_clips.source, HeldWaveforms)
    monkeypatch.setattr(type(clips.source.cache), "read", lambda *args, **kwargs: pytest.fail("read again"))
    assert len(batches(made.train_dataloader())) == 6


def test_on_a_cpu_auto_leaves_the_clips_in_the_mapped_file(clips):
    assert not has_room(clips.source.held_bytes, CPU, "auto")
    assert has_room(clips.source.held_bytes, CPU, "yes")
    assert module(clips).train_clips is clips


@pytest.mark.parametrize(("free_clips", "expected"), [(71, False), (72, True)])
def test_on_a_gpu_auto_keeps_what_takes_at_most_half_of_its_free_memory(
    clips, monkeypatch, free_clips, expected
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_clips * 128000, 10**12))
    assert has_room(clips.source.held_bytes, GPU, "auto") is expected
    assert not has_room(clips.source.held_bytes, GPU, "no")


def test_validation_clips_come_in_their_order(clips):
    (loader,) = module(clips).val_dataloader()
    seen = np.concatenate([batch.labels.row for batch in loader])
    assert seen.tolist() == list(range(36))


def test_a_resumed_training_reads_ahead_in_its_own_epoch(clips):
    resumed = module(clips, epoch=5).train_dataloader()
    loader = module(clips).train_dataloader()
    loader.sampler.set_epoch(5)
    assert [batch.labels.row.tolist() for batch in resumed] == [batch.labels.row.tolist() for batch in loader]


class Counting(L.LightningModule):
    """Notes the rows of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index):
        self.seen += batch.labels.row.tolist()
        return self.weight * batch.waveforms.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def learn(clips, folder, *, epochs, checkpoint=None, **loading):
    """The rows in the order in which Lightning sees them; it leaves a checkpoint."""
    task = Counting()
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        limit_val_batches=0, default_root_dir=folder,
    )  # fmt: skip
    data = ClipDataModule(clips, clips, batch_size=7, seed=0, loading=replace(IN_PROCESS, **loading))
    trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return task.seen


@pytest.mark.parametrize("keep", ["yes", "no"])
def test_lightning_sees_every_clip_once_in_an_epoch(clips, keep, tmp_path):
    seen = learn(clips, tmp_path, epochs=2, keep_on_device=keep)
    assert sorted(seen[:36]) == sorted(seen[36:]) == list(range(36))
    assert seen[:36] != seen[36:]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_training_sees_what_an_uninterrupted_one_would_have(clips, workers, tmp_path):
    whole = learn(clips, tmp_path, epochs=3)
    assert learn(clips, tmp_path, epochs=1) == whole[:36]
    assert learn(clips, tmp_path, epochs=3, checkpoint=tmp_path / "1.ckpt", workers=workers) == whole[36:]
