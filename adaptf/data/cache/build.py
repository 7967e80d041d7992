"""Building of the waveform cache:
clips that it lacks are decoded and appended, clips that it holds are verified."""

import errno
import itertools
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from adaptf.data.cache.levels import levels_of
from adaptf.data.cache.shards import CLIPS_PER_SHARD, CacheFormat, Shard, checksum
from adaptf.data.cache.waveforms import INT16_STEP, WaveformCache, open_cache
from adaptf.data.cuts import cut_file
from adaptf.data.decode import AudioError, Resampler, Waveform
from adaptf.data.errors import DataError
from adaptf.data.hashes import FileState, HashedFile, hash_files, state_of
from adaptf.data.parts import clip_key, split_name
from adaptf.data.processes import process_pool
from adaptf.files import blocks_of, one_at_a_time
from adaptf.names import find_file

logger = logging.getLogger(__name__)

CLIPS_PER_BLOCK = 256
_SECONDS_BETWEEN_COMMITS = 5.0
"""So much decoding at most is done again after a build was killed."""

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _ToDecode(NamedTuple):
    """A clip that is to be decoded."""

    name: str
    """File, or part of one."""
    key: str
    state: FileState
    """Of the file, when its key was made."""


class _ManifestRow(NamedTuple):
    """What a manifest says of a clip: the columns MANIFEST_TYPES."""

    key: str
    checksum: str = ""
    samples: int = 0
    peak: float = 0.0
    rms: float = 0.0
    dc: float = 0.0
    clipped: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class _BuiltCache:
    """A cache, and what its manifests say of the clips that were asked for."""

    waveforms: WaveformCache
    clips: pd.DataFrame
    """A row per name; `problem` says why a clip can't be used, or is ''."""


def build_cache(
    root: Path, names: Sequence[str], *, cache_root: Path, format: CacheFormat, workers: int = 2
) -> _BuiltCache:
    """Decodes what the cache does not hold yet. `names` are files below `root`, or parts of them.

    Killed at any moment, the next call goes on where it was and ends with the same bytes. Of two calls at
    once the second waits for the first.
    Raises DataError for missing files, a full disk, or a cache that is not what its manifests say.
    """
    folder = cache_root / format.folder_name
    folder.mkdir(parents=True, exist_ok=True)
    with (
        one_at_a_time(folder / "lock", f"building the waveform cache {folder}"),
        process_pool(workers) as pool,
    ):
        for half_written in folder.glob(".*"):  # by a builder that was killed
            half_written.unlink()
        files = hash_files(root, distinct_files(names), memory_folder=cache_root, pool=pool)
        keys = keys_of(names, files)
        cache = open_cache(cache_root, format)
        held = cache.holds(keys)
        _verify(cache, np.unique(cache.rows_of(list(itertools.compress(keys, held)))), workers)
        missing: dict[str, str] = {}
        for name, key in itertools.compress(zip(names, keys, strict=True), ~held):
            missing.setdefault(key, name)  # the same content may have several names
        clips = [_ToDecode(name, key, files[split_name(name)[0]].state) for key, name in missing.items()]
        if clips:
            _check_space(folder, len(clips) * format.row_bytes)
            _append(cache, root, clips, pool)
            cache = open_cache(cache_root, format)
    return _BuiltCache(cache, cache.index.iloc[cache.rows_of(keys)].reset_index(drop=True))


def distinct_files(names: Sequence[str]) -> list[str]:
    """The files of clips and of parts, each once."""
    return list(dict.fromkeys(split_name(name)[0] for name in names))


def keys_of(names: Sequence[str], files: Mapping[str, HashedFile]) -> list[str]:
    """The key of each clip: the hash of its file, and which part of it."""
    return [clip_key(files[file].content, part) for file, part in map(split_name, names)]


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"the waveform cache needs {needed / 1e9:.1f} GB more in {folder}, {free / 1e9:.1f} GB are free "
            f"there: make space, or choose another disk with data.cache, or half the size with "
            "data.sample_type=int16"
        )


def _verify(cache: WaveformCache, rows: NDArray[np.int64], threads: int) -> None:
    """Raises DataError where the samples of a row are not those that were written."""

    def verify(block: Sequence[int]) -> int:
        for row in block:
            place, row_in_shard = divmod(row, CLIPS_PER_SHARD)
            shard = Shard(cache.folder, place, cache.format)
            if checksum(shard.mapped()[row_in_shard]) != checksums[row]:
                raise shard.broken(
                    f"the samples of row {row_in_shard} are not those that its manifest describes"
                )
        return len(block)

    checksums = cache.index["checksum"].to_numpy()
    rows = rows[checksums[rows] != ""]
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(None, "verifying the cache", len(rows), unit="clip", delay=2) as bar,
    ):
        for count in pool.map(verify, blocks_of(rows.tolist(), CLIPS_PER_BLOCK)):
            bar.update(count)


def _append(cache: WaveformCache, root: Path, clips: Sequence[_ToDecode], pool: ProcessPoolExecutor) -> None:
    """Fills the last shard, then new ones, always in the order of the clips."""
    first, filled = divmod(len(cache), CLIPS_PER_SHARD)
    cuts = [0, *range(CLIPS_PER_SHARD - filled, len(clips), CLIPS_PER_SHARD), len(clips)]
    with tqdm(None, "decoding", len(clips), unit="clip", mininterval=1) as bar:
        for place, (start, end) in enumerate(itertools.pairwise(cuts), first):
            held = cache.index.iloc[place * CLIPS_PER_SHARD :].itertuples(index=False, name=None)
            rows = [_ManifestRow(*row) for row in held]
            _fill(Shard(cache.folder, place, cache.format), rows, root, clips[start:end], pool, bar)


def _fill(
    shard: Shard,
    rows: list[_ManifestRow],
    root: Path,
    clips: Sequence[_ToDecode],
    pool: ProcessPoolExecutor,
    bar: "tqdm[Any]",
) -> None:
    """Appends clips to a shard of these rows.
    However it ends, those before the first unfinished block are kept."""
    first, total = len(rows), len(rows) + len(clips)
    blocks = list(_blocks_of_files(clips))
    begins = itertools.accumulate(map(len, blocks), initial=first)
    decoded = pool.map(partial(decode_block, root, shard), blocks, begins)
    try:
        committed = time.monotonic()
        for block in decoded:
            rows += block
            bar.update(len(block))
            if time.monotonic() - committed > _SECONDS_BETWEEN_COMMITS:
                shard.write_manifest(rows)
                committed = time.monotonic()
        shard.write_manifest(rows)
    except BaseException as error:
        pool.shutdown(cancel_futures=True)
        with open(shard.samples_path, "ab") as file:
            file.truncate(len(rows) * shard.format.row_bytes)  # on a full disk the manifest needs room
        shard.write_manifest(rows)
        raise _explained(error, shard, kept=len(rows) - first, missing=total - len(rows)) from error


def _explained(error: BaseException, shard: Shard, *, kept: int, missing: int) -> BaseException:
    """What a user can do about a build that ended early."""
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        space = missing * shard.format.row_bytes / 1e9
        return DataError(
            f"the disk of {shard.folder} is full; {kept} clips more than before are kept. Make space for "
            f"{space:.2f} GB, then run the same command again: it goes on from there"
        )
    if isinstance(error, BrokenProcessPool):
        return DataError(
            f"a process that decodes for {shard.folder} was ended from outside, as the system does when "
            f"memory is short; {kept} clips more than before are kept. Run the same command again, perhaps "
            "with data.workers=1"
        )
    return error


def decode_block(root: Path, shard: Shard, clips: Sequence[_ToDecode], row: int) -> list[_ManifestRow]:
    """Writes consecutive clips to the shard from `row` on and returns what its manifest has to say of
    them."""
    file = os.open(shard.samples_path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        return list(_decode(root, clips, file, row, shard.format))
    finally:
        os.close(file)


def _decode(
    root: Path, clips: Sequence[_ToDecode], file: int, row: int, format: CacheFormat
) -> Iterator[_ManifestRow]:
    """A file is decoded once for all its parts among the clips.
    Raises DataError for one that changed, or is too much."""
    resample = Resampler(format.sample_rate)
    for name, of_file in itertools.groupby(clips, key=_file_of):
        parts, path = list(of_file), find_file(root, name)
        try:
            rows = list(_decode_file(path, parts, resample, file, row, format))
        except MemoryError as error:
            raise DataError(f"{root / name}: memory is too short to decode it") from error
        if state_of(parts[0].state[0]) != parts[0].state:  # what was decoded may not be what was hashed
            raise DataError(
                f"{root / name} changed while the waveform cache was built: run the same command again"
            )
        yield from rows
        row += len(parts)


def _decode_file(
    path: Path, clips: Sequence[_ToDecode], resample: Resampler, file: int, row: int, format: CacheFormat
) -> Iterator[_ManifestRow]:
    """Writes the clips that are parts of one audio file to the rows from `row` on."""
    numbers = [split_name(clip.name)[1] for clip in clips]
    rows = dict(zip(numbers, itertools.count(row), strict=False))
    found, samples, problem = {}, 0, ""
    try:
        for number, cut in enumerate(cut_file(path, resample, clip_samples=format.clip_samples)):
            samples += len(cut.clip)
            if number in rows:
                stored = as_stored(cut.clip, format)
                write_at(file, stored, rows[number] * format.row_bytes)
                found[number] = checksum(stored), levels_of(cut.source)
    except AudioError as error:
        problem, found = str(error), {}
    for clip, number in zip(clips, numbers, strict=True):
        begin = number * format.clip_samples
        if number in found:
            hashed, levels = found[number]
            yield _ManifestRow(clip.key, hashed, samples - begin, *levels)
        else:
            os.pwrite(
                file, b"\0", (rows[number] + 1) * format.row_bytes - 1
            )  # the last row's end is the file's
            yield _ManifestRow(
                clip.key, problem=problem or f"it ends before {begin / format.sample_rate:g} s"
            )


def _file_of(clip: _ToDecode) -> str:
    """The file that a clip is, or a part of."""
    return split_name(clip.name)[0]


def _blocks_of_files(clips: Sequence[_ToDecode]) -> Iterator[list[_ToDecode]]:
    """Consecutive clips, CLIPS_PER_BLOCK of them and those behind that are parts of the same file."""
    block: list[_ToDecode] = []
    for _, of_file in itertools.groupby(clips, key=_file_of):
        block += of_file
        if len(block) >= CLIPS_PER_BLOCK:
            yield block
            block = []
    if block:
        yield block


def as_stored(waveform: Waveform, format: CacheFormat) -> NDArray[np.generic]:
    """(samples,) -> (clip_samples,) of the cache's type: zeros at the end where there are fewer."""
    padded = (
        waveform
        if len(waveform) == format.clip_samples
        else np.pad(waveform, (0, format.clip_samples - len(waveform)))
    )
    if format.sample_type == "float32":
        return padded
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(padded / INT16_STEP), limits.min, limits.max).astype(np.int16)


def write_at(file: int, samples: NDArray[np.generic], offset: int) -> None:
    """All bytes, also where the system takes them in pieces.
    A mapped file would end the process on a full disk."""
    content = samples.data.cast("B")
    while content:
        written = os.pwrite(file, content, offset)
        content, offset = content[written:], offset + written
