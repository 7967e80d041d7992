"""The waveform cache: every clip decoded and resampled once, in one memory-mapped float32 file with a manifest.

A folder per content: its name is a digest of the settings and of every file's hash, so another file or setting is another
cache and an old one is never taken for it. The folder appears by a rename once everything in it is written.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from adaptf.data.decode import AudioError, Waveform, decode
from adaptf.data.errors import DataError, raise_problems
from adaptf.data.hashes import file_hashes

logger = logging.getLogger(__name__)

WAVEFORMS, MANIFEST, SETTINGS = "waveforms.f32", "manifest.csv", "settings.json"
FORMAT = 1
LENGTH_TOLERANCE_SAMPLES = 2
"""Resampling rounds a clip's length."""

LengthRule = Literal["exact", "pad_or_cut"]


@dataclass(frozen=True)
class CacheSettings:
    """What decides the samples of a cached clip."""

    sample_rate: int
    clip_samples: int
    length: LengthRule
    """`exact`: another length is an error. `pad_or_cut`: zeros at the end, or the end left out."""


@dataclass(frozen=True)
class WaveformCache:
    """Clips (clips, samples) in the order of `filenames`."""

    folder: Path
    digest: str
    filenames: tuple[str, ...]
    settings: CacheSettings

    def __len__(self) -> int:
        return len(self.filenames)

    def read(self, rows: NDArray[np.int64], *, first_sample: NDArray[np.int64] | None = None, samples: int = 0) -> Tensor:
        """Clips (rows, samples) by one indexed read; with `first_sample` (rows,), so many samples of each from there on."""
        shape = (len(self), self.settings.clip_samples)
        waveforms = np.memmap(self.folder / WAVEFORMS, dtype=np.float32, mode="r", shape=shape)
        if first_sample is None:
            return torch.from_numpy(waveforms[rows])
        return torch.from_numpy(waveforms[rows[:, None], first_sample[:, None] + np.arange(samples)])

    def rows_of(self, filenames: Sequence[str]) -> NDArray[np.int64]:
        """Row of each file. Raises DataError for one that is not in the cache."""
        place = {name: row for row, name in enumerate(self.filenames)}
        raise_problems([f"{name} is not cached" for name in filenames if name not in place], of=str(self.folder))
        return np.array([place[name] for name in filenames], dtype=np.int64)


def build_cache(
    root: Path, filenames: Sequence[str], *, cache_root: Path, settings: CacheSettings, threads: int = 2
) -> WaveformCache:
    """The cache of these files, decoded now unless it is there. Raises DataError that names files which can't be used."""
    cache_root.mkdir(parents=True, exist_ok=True)
    hashes = file_hashes(root, filenames, memory_folder=cache_root, threads=threads)
    digest = _digest(hashes, settings)
    folder = cache_root / digest
    if not folder.exists():
        _decode_into(folder, root, hashes, settings, threads)
    return open_cache(folder)


def open_cache(folder: Path) -> WaveformCache:
    """A finished cache. Raises DataError where its parts are missing or do not belong together."""
    try:
        stored = json.loads((folder / SETTINGS).read_text())
        manifest_bytes = (folder / MANIFEST).read_bytes()
        waveform_bytes = (folder / WAVEFORMS).stat().st_size
        settings = CacheSettings(**stored["settings"])
        manifest_digest, clips = stored["manifest_sha256"], stored["clips"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(folder, f"a part is missing or unreadable: {error}") from error
    if hashlib.sha256(manifest_bytes).hexdigest() != manifest_digest:
        raise _broken(folder, f"{MANIFEST} is not the one that was written with it")
    if waveform_bytes != clips * settings.clip_samples * 4:
        raise _broken(folder, f"{WAVEFORMS} has {waveform_bytes} bytes, expected {clips * settings.clip_samples * 4}")
    manifest = pd.read_csv(folder / MANIFEST, dtype={"filename": str}, keep_default_na=False)
    return WaveformCache(folder, folder.name, tuple(manifest["filename"]), settings)


def _broken(folder: Path, what: str) -> DataError:
    return DataError(f"the waveform cache {folder} can't be used: {what}. Delete this folder and run `prepare` again")


def _digest(hashes: pd.DataFrame, settings: CacheSettings) -> str:
    content = hashlib.sha256(json.dumps({"format": FORMAT, **asdict(settings)}, sort_keys=True).encode())
    for filename, sha256 in zip(hashes["filename"], hashes["sha256"], strict=True):
        content.update(f"{filename}\0{sha256}\n".encode())
    return content.hexdigest()[:32]


def _decode_into(folder: Path, root: Path, hashes: pd.DataFrame, settings: CacheSettings, threads: int) -> None:
    """Decodes into a folder beside the target and renames it; what another process finished meanwhile is kept."""
    needed = len(hashes) * settings.clip_samples * 4
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise DataError(f"the waveform cache needs {needed / 1e9:.1f} GB below {folder.parent}, {free / 1e9:.1f} GB are free")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        _write_waveforms(temporary / WAVEFORMS, root, list(hashes["filename"]), settings, threads)
        manifest = hashes.drop(columns="modified").to_csv(index=False, lineterminator="\n").encode()
        (temporary / MANIFEST).write_bytes(manifest)
        stored = {
            "settings": asdict(settings),
            "clips": len(hashes),
            "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        }
        (temporary / SETTINGS).write_text(json.dumps(stored, indent=1))
        if not folder.exists():
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_waveforms(path: Path, root: Path, filenames: list[str], settings: CacheSettings, threads: int) -> None:
    shape = (len(filenames), settings.clip_samples)
    waveforms = np.memmap(path, dtype=np.float32, mode="w+", shape=shape)

    def decode_row(row: int) -> str | None:
        try:
            waveforms[row] = fit_length(decode(root / filenames[row], sample_rate=settings.sample_rate), settings)
        except AudioError as error:
            return f"{filenames[row]}: {error}"
        return None

    with ThreadPoolExecutor(threads) as pool:
        rows = pool.map(decode_row, range(len(filenames)))
        problems = [problem for problem in tqdm(rows, "decoding", len(filenames), unit="clip", mininterval=1) if problem]
    waveforms.flush()
    raise_problems(problems, of=str(root))


def fit_length(waveform: Waveform, settings: CacheSettings) -> Waveform:
    """(samples,) -> (clip_samples,). Raises AudioError where the rule is `exact` and the length is another one."""
    wanted = settings.clip_samples
    if settings.length == "exact" and abs(len(waveform) - wanted) > LENGTH_TOLERANCE_SAMPLES:
        found, right = len(waveform) / settings.sample_rate, wanted / settings.sample_rate
        raise AudioError(f"{found:.3f} s long, expected {right:.3f} s")
    return np.pad(waveform[:wanted], (0, max(0, wanted - len(waveform))))
