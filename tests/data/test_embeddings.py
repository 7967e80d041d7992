import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptf.data import embeddings as module
from adaptf.data.cache.shards import CacheFormat
from adaptf.data.clip_set import ClipSet, clip_set
from adaptf.data.embeddings import cached_embeddings
from adaptf.data.loader import clip_loader
from adaptf.data.loading import Loading
from adaptf.data.sources import CachedWaveforms, HeldFeatures, Sample

CLIPS, SAMPLES, DIM = 10, 16, 3
KEYS = [f"content-{row}" for row in range(CLIPS)]


class Cache:
    """Ten random clips."""

    format = CacheFormat(16000, SAMPLES)
    waveforms = torch.randn(CLIPS, SAMPLES, generator=torch.Generator().manual_seed(0))

    def read(self, rows, *, first_sample=None, samples=0):
        clips = self.waveforms[rows]
        if first_sample is None:
            return clips
        return torch.stack([clip[at : at + samples] for clip, at in zip(clips, first_sample, strict=True)])


def clips_of(rows, *, samples=SAMPLES, random=False) -> CachedWaveforms:
    """These rows of the same ten random clips."""
    return CachedWaveforms(Cache(), np.array(rows, dtype=np.int64), Sample(samples, random))


class Encoder:
    """Three sums of a clip; it counts the clips that it is given, and stops before more than `limit`."""

    def __init__(self, limit: int = 10**6) -> None:
        self.clips, self.batches, self.limit = 0, [], limit

    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        if self.clips + len(waveform) > self.limit:
            raise KeyboardInterrupt
        self.clips += len(waveform)
        self.batches.append(len(waveform))
        return torch.stack([waveform.sum(1), waveform.square().sum(1), waveform[:, 0]], dim=1)


@pytest.fixture(autouse=True)
def blocks_of_four(monkeypatch):
    monkeypatch.setattr(module, "CLIPS_PER_BLOCK", 4)


@pytest.fixture
def embed(tmp_path):
    def embed(encode, rows=range(CLIPS), *, digest="encoder-0", batch_size=3, **settings):
        clips = clips_of(rows, **settings)
        keys = [KEYS[row] for row in rows]
        kept = cached_embeddings(
            encode,
            clips,
            keys,
            folder=tmp_path / "kept",
            encoder_digest=digest,
            device="cpu",
            batch_size=batch_size,
        )
        return kept.table.numpy()

    return embed


def expected(rows=range(CLIPS)) -> np.ndarray:
    with torch.no_grad():
        return Encoder()(Cache().read(list(rows))).numpy()


def files(tmp_path) -> list[Path]:
    return sorted((tmp_path / "kept").rglob("*.*"))


def test_embeddings_stand_in_the_order_of_the_clips(embed):
    embeddings = embed(Encoder())
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected(), rtol=1e-5, atol=1e-5)


def test_the_encoder_gets_batches_of_the_size_that_is_asked_for(embed):
    encoder = Encoder()
    embed(encoder, batch_size=3)
    assert encoder.batches == [3, 1, 3, 1, 2]


def test_a_second_time_nothing_is_computed(embed):
    first, encoder = embed(Encoder()), Encoder()
    np.testing.assert_array_equal(embed(encoder), first)
    assert encoder.clips == 0


def test_a_computation_that_was_interrupted_goes_on_behind_the_last_whole_block(embed, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        embed(Encoder(limit=6))
    assert len(files(tmp_path)) == 1
    encoder = Encoder()
    np.testing.assert_allclose(embed(encoder), expected(), rtol=1e-5, atol=1e-5)
    assert encoder.clips == CLIPS - 4


def test_clips_in_another_order_get_their_own_embeddings(embed):
    embed(Encoder())
    order = [7, 0, 9, 2, 5, 1, 8, 3, 6, 4]
    np.testing.assert_allclose(embed(Encoder(), order), expected(order), rtol=1e-5, atol=1e-5)


def test_blocks_that_are_the_same_are_shared_with_another_set(embed):
    embed(Encoder())
    encoder = Encoder()
    embed(encoder, range(8))
    assert encoder.clips == 0


@pytest.mark.parametrize("digest", ["encoder-1", "encoder-0" * 4 + "features-2"])
def test_another_encoder_computes_anew(embed, digest):
    embed(Encoder(), digest="encoder-0" * 4)
    encoder = Encoder()
    embed(encoder, digest=digest)
    assert encoder.clips == CLIPS


def test_parts_of_another_length_are_computed_anew(embed):
    embed(Encoder())
    encoder = Encoder()
    embed(encoder, samples=8)
    assert encoder.clips == CLIPS


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def with_another_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def with_another_width(path: Path) -> None:
    np.save(path, np.zeros((4, DIM + 1), dtype=np.float32))


def with_fewer_clips(path: Path) -> None:
    np.save(path, np.zeros((3, DIM), dtype=np.float32))


def with_objects(path: Path) -> None:
    np.save(path, np.array([[{}] * DIM] * 4, dtype=object), allow_pickle=True)


def as_archive(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, np.zeros((4, DIM)))


DAMAGE = [cut_off, emptied, with_another_byte, with_another_width, with_fewer_clips, with_objects, as_archive]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_computed_again_and_replaced(embed, tmp_path, damage):
    embed(Encoder())
    written = files(tmp_path)
    path = next(path for path in written if np.load(path).shape == (4, DIM))
    damage(path)
    encoder = Encoder()
    np.testing.assert_allclose(embed(encoder), expected(), rtol=1e-5, atol=1e-5)
    assert encoder.clips == 4
    assert files(tmp_path) == written
    assert np.load(path).shape == (4, DIM)


def test_half_precision_is_kept_as_float32(embed):
    embeddings = embed(lambda waveform: waveform[:, :DIM].bfloat16())
    assert embeddings.dtype == np.float32 and embeddings.shape == (CLIPS, DIM)


def test_no_clips_have_no_embeddings(embed):
    assert len(embed(Encoder(), [])) == 0


def test_keys_of_another_number_of_clips_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one for each of 10 clips, got 9"):
        cached_embeddings(
            Encoder(), clips_of(range(10)), KEYS[:9], folder=tmp_path, encoder_digest="0", device="cpu"
        )


def test_parts_that_are_drawn_at_random_are_refused(embed):
    with pytest.raises(ValueError, match="random should be False"):
        embed(Encoder(), samples=8, random=True)


def test_an_encoder_that_returns_another_shape_is_refused(embed):
    with pytest.raises(ValueError, match=r"should return \(3 clips, dim\), got \(3, 16, 1\)"):
        embed(lambda waveform: waveform[:, :, None])


# Clip sets of embeddings


@pytest.fixture
def embedded() -> ClipSet:
    rows = [5, 2, 9, 0]
    targets, devices = np.eye(CLIPS, dtype=np.float32)[rows], np.array(rows, dtype=np.int64) % 3
    source = HeldFeatures(torch.from_numpy(expected(rows)))
    return clip_set([f"{row}.wav" for row in rows], source, targets=targets, devices=devices)


def test_a_batch_holds_embeddings_with_all_that_belongs_to_their_clips(embedded):
    batch = embedded[[2, 1]]
    torch.testing.assert_close(batch.features, torch.from_numpy(expected([9, 2])))
    assert batch.labels.targets.argmax(dim=1).tolist() == [9, 2]
    assert batch.labels.device.tolist() == [0, 2] and batch.labels.row.tolist() == [2, 1]
    assert embedded.source.clip_bytes == DIM * 4


def test_a_loader_takes_embeddings_without_workers(embedded):
    loader = clip_loader(embedded, batch_size=3, loading=Loading(workers=2))
    assert loader.num_workers == 0
    read = torch.cat([batch.features for batch in loader])
    torch.testing.assert_close(read, torch.from_numpy(expected([5, 2, 9, 0])))


def test_embeddings_in_the_memory_of_a_device_are_the_same(embedded):
    rows = [3, 0]
    held = embedded.source.held(torch.device("cpu"))
    torch.testing.assert_close(replace(embedded, source=held)[rows].features, embedded[rows].features)


def test_of_two_that_compute_the_same_the_second_waits_and_reads(embed, caplog):
    encoder, begun, other_came = Encoder(), threading.Event(), threading.Event()
    caplog.handler.addFilter(lambda record: other_came.set() or True)  # it says that it waits

    def encode(waveforms):
        if begun.is_set():
            other_came.set()  # it computes too
        begun.set()
        assert other_came.wait(60)
        return encoder(waveforms)

    with caplog.at_level("INFO"), ThreadPoolExecutor(2) as processes:
        first, second = processes.map(lambda _: embed(encode), range(2))
    np.testing.assert_array_equal(first, second)
    assert encoder.clips == CLIPS
