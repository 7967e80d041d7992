"""Log-mels in memory: their values, their limit, who gets them, and that batches hold them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adaptf.audio.logmel import LogMel
from adaptf.data import log_mels as module
from adaptf.data.batch import FeatureBatch, WaveformBatch
from adaptf.data.cache.build import build_cache
from adaptf.data.cache.shards import CacheFormat
from adaptf.data.clip_set import clip_set
from adaptf.data.data_module import ClipDataModule
from adaptf.data.loading import Loading
from adaptf.data.log_mels import LogMelTables, log_mels
from adaptf.data.sources import CachedWaveforms, HeldFeatures, Sample
from adaptf.evaluation.predict import predict_logits

CPU, LOGMEL = torch.device("cpu"), LogMel(bands=64)
CLIP_BYTES = 64 * 64 * 4
FIT_LOOP = SimpleNamespace(epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=0)))
TRAINER = SimpleNamespace(strategy=SimpleNamespace(root_device=CPU), num_devices=1, fit_loop=FIT_LOOP)


@pytest.fixture
def clips(tau, tmp_path):
    names = sorted(path.relative_to(tau).as_posix() for path in tau.rglob("*.wav"))
    waveforms = build_cache(
        tau, names, cache_root=tmp_path / "cache", format=CacheFormat(32000, 32000)
    ).waveforms
    targets, devices = np.eye(36, dtype=np.float32), np.arange(36) % 3
    source = CachedWaveforms(waveforms, np.random.default_rng(0).permutation(36), Sample(32000))
    return clip_set(names, source, targets=targets, devices=devices)


@pytest.fixture
def computed(monkeypatch):
    """How many clips each table had that was computed."""
    sizes, compute = [], module.log_mels
    monkeypatch.setattr(
        module, "log_mels", lambda clips, *rest: [sizes.append(len(clips)), compute(clips, *rest)][1]
    )
    return sizes


def with_source(clips, **changes):
    return replace(clips, source=replace(clips.source, **changes))


def is_kept(clips):
    return isinstance(clips.source, HeldFeatures)


def first(clips, count):
    return clips.part(np.arange(len(clips)) < count)


def given(tables, *sets, limit_clips=1000, logmel=LOGMEL):
    return tables.given_to(
        sets, CPU, logmel=logmel, loading=Loading(log_mel_gb=limit_clips * CLIP_BYTES / 1e9)
    )


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_table_holds_what_batches_of_any_size_would_give(clips, batch):
    """The transform's rounding may depend on how many clips it gets at once:
    log-mels have a spread near one."""
    table = log_mels(clips, LOGMEL, CPU)
    assert table.shape == (36, 1, 64, 64)
    for rows in np.array_split(np.random.default_rng(1).permutation(36), -(-36 // batch)):
        assert (table[rows] - LOGMEL(clips[rows].waveforms)).abs().max() < 1e-3


def test_batches_hold_log_mels_in_place_of_waveforms(clips):
    (held,) = given(LogMelTables(), clips)
    batch, plain = held[[7, 2]], clips[[7, 2]]
    assert isinstance(batch, FeatureBatch) and isinstance(plain, WaveformBatch)
    assert torch.equal(batch.features, held.source.table[[7, 2]])
    assert all(
        np.array_equal(one, other) for one, other in zip(batch.labels[:4], plain.labels[:4], strict=True)
    )
    assert torch.equal(first(held, 4)[[3]].features, held[[3]].features)


def test_a_batch_is_a_copy(clips):
    (held,) = given(LogMelTables(), clips)
    before = held.source.table.clone()
    held[[0, 1]].features.zero_()
    assert torch.equal(held.source.table, before)


def test_a_table_is_computed_once_for_the_same_clips_and_settings(clips, computed):
    tables = LogMelTables()
    for _ in range(2):
        given(tables, clips, first(clips, 9))
    assert computed == [36, 9]
    given(tables, with_source(clips, cache_rows=clips.source.cache_rows[::-1].copy()))
    given(tables, clips, logmel=LogMel(bands=64, hop_samples=501))
    given(tables, with_source(clips, sample=Sample(16000)), replace(clips, targets=clips.targets * 2))
    assert computed == [36, 9, 36, 36, 36]


def test_the_first_sets_come_first_where_not_all_fit(clips):
    small, large = given(LogMelTables(), first(clips, 9), clips, limit_clips=44)
    assert is_kept(small) and not is_kept(large)
    assert all(is_kept(held) for held in given(LogMelTables(), first(clips, 9), clips, limit_clips=45))
    tables = LogMelTables()
    given(tables, clips)
    assert given(tables, clips, limit_clips=0)[0] is clips


def test_tables_that_nobody_asked_for_lately_make_room(clips, computed):
    tables = LogMelTables()
    parts = {count: first(clips, count) for count in (10, 11, 12, 13)}
    for count in (10, 11, 10, 12):
        given(tables, parts[count], limit_clips=33)
    given(tables, parts[13], limit_clips=33)  # 11 goes, and 10, which was asked for before 12
    given(tables, parts[12], limit_clips=33)
    assert computed == [10, 11, 12, 13]
    given(tables, parts[10], limit_clips=35)
    assert computed == [10, 11, 12, 13, 10]


def test_a_trainings_own_tables_do_not_make_room_for_each_other(clips):
    one, other = given(LogMelTables(), first(clips, 30), first(clips, 31), limit_clips=33)
    assert is_kept(one) and not is_kept(other)


def test_random_parts_and_clips_that_are_in_no_cache_stay_as_they_are(clips):
    parts = with_source(clips, sample=Sample(16000, random=True))
    assert given(LogMelTables(), parts)[0] is parts
    elsewhere = replace(clips, source=clips.source.held(CPU))
    assert given(LogMelTables(), elsewhere)[0] is elsewhere


def test_on_a_gpu_its_free_memory_counts_too(clips, monkeypatch):
    monkeypatch.setattr(module, "log_mels", lambda clips, logmel, device: torch.zeros(len(clips), 1))
    for free_clips, choice, expected in (
        (71, "auto", False),
        (72, "auto", True),
        (72, "no", False),
        (10, "yes", True),
    ):
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda device, free=free_clips: (free * CLIP_BYTES, 10**12)
        )
        loading = Loading(keep_on_device=choice)
        (held,) = LogMelTables().given_to([clips], torch.device("cuda", 0), logmel=LOGMEL, loading=loading)
        assert is_kept(held) == expected


@pytest.mark.parametrize("waveforms_change", [True, False])
def test_training_clips_get_log_mels_where_nothing_changes_their_waveforms(clips, waveforms_change):
    made = ClipDataModule(
        clips, first(clips, 9), batch_size=7, seed=3, loading=Loading(workers=2),
        keep=LogMelTables().keeper(LOGMEL, Loading()), waveforms_change=waveforms_change,
    )  # fmt: skip
    made.trainer = TRAINER
    made.setup("fit")
    plain = ClipDataModule(clips, clips, batch_size=7, seed=3, loading=Loading(workers=0))
    plain.trainer = TRAINER
    train = list(made.train_dataloader())
    assert [batch.labels.row.tolist() for batch in train] == [
        batch.labels.row.tolist() for batch in plain.train_dataloader()
    ]
    assert all(isinstance(batch, FeatureBatch) != waveforms_change for batch in train)
    (validation,) = made.val_dataloader()
    assert all(isinstance(batch, FeatureBatch) for batch in validation)
    assert validation.num_workers == 0
    assert made.train_dataloader().num_workers == (2 if waveforms_change else 0)


def test_clips_with_log_mels_are_predicted_without_their_waveforms(clips, monkeypatch):
    (held,) = given(LogMelTables(), clips)
    expected = predict_logits(lambda waveforms: LOGMEL(waveforms).mean(dim=(1, 3)), clips)
    monkeypatch.setattr(type(clips.source), "read", lambda *args: pytest.fail("read again"))
    np.testing.assert_allclose(
        predict_logits(lambda features: features.mean(dim=(1, 3)), held), expected, atol=1e-3
    )
