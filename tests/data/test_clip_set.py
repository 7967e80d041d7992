import numpy as np
import pytest
import torch

from adaptf.data.cache.build import build_cache
from adaptf.data.cache.shards import CacheFormat
from adaptf.data.clip_set import clip_set, scene_clip_set, with_teacher_logits
from adaptf.data.loader import BatchRows, clip_loader
from adaptf.data.loading import Loading
from adaptf.data.sets.read_clips import read_clips
from adaptf.data.sources import CachedWaveforms, Sample
from adaptf.models.students.tfsepnet.public_checkpoint import CLASSES as TAU_SCENES


@pytest.fixture
def table(tau):
    return read_clips(tau, scenes=TAU_SCENES, validation_share=0.3, test_share=0.2, seed=0).table


@pytest.fixture
def built(tau, table, tmp_path):
    return build_cache(
        tau, list(table["filename"]), cache_root=tmp_path / "cache", format=CacheFormat(32000, 32000)
    )


@pytest.fixture
def clips(table, built):
    shuffled = table.assign(key=built.clips["key"]).sample(frac=1, random_state=0)
    rows = built.waveforms.rows_of(list(shuffled["key"]))
    source = CachedWaveforms(built.waveforms, rows, Sample(32000))
    return scene_clip_set(shuffled, source, scenes=TAU_SCENES, devices=("a", "b", "c"))


def test_a_batch_holds_what_belongs_to_its_clips(clips, table, built):
    batch = clips[[11, 3]]
    rows = table.assign(key=built.clips["key"]).set_index("filename")
    for place, row in enumerate([11, 3]):
        name = clips.filenames[row]
        assert TAU_SCENES[int(batch.labels.targets[place].argmax())] == rows.loc[name, "scene"]
        assert "abc"[int(batch.labels.device[place])] == rows.loc[name, "device"]
        assert torch.equal(
            batch.waveforms[place], built.waveforms.read(built.waveforms.rows_of([rows.loc[name, "key"]]))[0]
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_holds_every_clip_once(clips, workers):
    loader = clip_loader(clips, batch_size=7, loading=Loading(workers=workers), seed=0)
    seen = np.concatenate([batch.labels.row for batch in loader]).tolist()
    assert sorted(seen) == list(range(36))
    assert seen != sorted(seen)


def test_order_depends_on_seed_and_epoch_only():
    first, again, other = (BatchRows(50, batch_size=8, seed=seed) for seed in (1, 1, 2))
    assert list(first) == list(again) != list(other)
    again.set_epoch(1)
    assert list(first) != list(again)


def test_teacher_logits_come_with_their_clips(clips):
    logits = np.arange(36 * 2 * 10, dtype=np.float32).reshape(36, 2, 10)
    batch = with_teacher_logits(clips, logits)[[5, 1]]
    assert np.array_equal(batch.labels.teacher_logits.numpy(), logits[[5, 1]])


def test_teacher_logits_of_another_number_of_clips_are_refused(clips):
    with pytest.raises(ValueError, match=r"\(36 clips, teachers, 10 classes\), got \(35, 2, 10\)"):
        with_teacher_logits(clips, np.zeros((35, 2, 10), dtype=np.float32))


def parts_of(built, samples, *, random=False):
    targets, devices = np.zeros((36, 3), dtype=np.float32), np.zeros(36, dtype=np.int64)
    names, rows = [str(row) for row in range(36)], np.arange(36)
    source = CachedWaveforms(built.waveforms, rows, Sample(samples, random))
    return clip_set(names, source, targets=targets, devices=devices)


def test_random_parts_differ_between_batches_and_repeat_for_the_same_batch(built):
    clips = parts_of(built, 1000, random=True)
    assert clips[[0, 1]].waveforms.shape == (2, 1000)
    assert torch.equal(clips[[0, 1]].waveforms, clips[[0, 1]].waveforms)
    assert not torch.equal(clips[[0, 1]].waveforms[0], clips[[0, 2]].waveforms[0])


def test_without_chance_a_part_is_the_middle(built):
    whole = built.waveforms.read(np.array([4]))
    assert torch.equal(parts_of(built, 1000)[[4]].waveforms, whole[:, 15500:16500])


def test_samples_longer_than_the_cached_clips_are_refused(built):
    with pytest.raises(
        ValueError, match="clips of 64000 samples are asked for, the cache holds 32000 of each"
    ):
        parts_of(built, 64000)
