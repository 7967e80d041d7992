"""Speed of the data layer against the plain way of doing the same: pairs in one run, medians, ratios.

pip install --constraint constraints.txt -e .[benchmark]
python benchmarks/data.py --clips 4096
"""

import itertools
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import librosa
import numpy as np
import soundfile
import soxr
import torch
from kept import Pair, command_line, keep, show
from measure import machine, measure_pair, seconds_of
from scipy.signal import fftconvolve
from torch.utils.data import DataLoader

from adaptf.audio.torchaudio_import import import_torchaudio
from adaptf.data.batch import ClipBatch
from adaptf.data.cache.build import as_stored, build_cache, write_at
from adaptf.data.cache.levels import levels_of
from adaptf.data.cache.shards import CacheFormat, checksum
from adaptf.data.cache.waveforms import WaveformCache, open_cache
from adaptf.data.clip_set import ClipSet, clip_set
from adaptf.data.decode import Resampler, read_mono
from adaptf.data.hashes import hash_of
from adaptf.data.loader import clip_loader
from adaptf.data.loading import Loading
from adaptf.data.responses import load_responses
from adaptf.data.sources import CachedWaveforms, Sample
from adaptf.training.memory import keep_freed_memory

RATE, SAMPLE_RATE = 44100, 32000
FORMAT = CacheFormat(SAMPLE_RATE, SAMPLE_RATE)
BATCH = 256
RESPONSES, RESPONSE_SAMPLES = 66, 16384
"""As MicIRP has them."""


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--clips", type=int, default=4096, help="one-second files that are written and read")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where files are written; default: the system's"
    )
    args = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        names = write_clips(folder / "clips", args.clips)
        print(f"{machine()}; {args.clips} one-second files of {RATE} Hz, medians of {args.repeats}\n")
        shown = show(pairs(folder, names, args.repeats))
        keep(shown, args.keep)
        print(f"\nBuilding the cache: {1000 / shown[0].our_ms:.0f} clips/s.")
        print("\n| building, one process, ms per clip | |\n|---|---|")
        for what, milliseconds in build_parts(folder, names):
            print(f"| {what} | {milliseconds:.3f} |")
        seconds = seconds_of(open_cache(folder / "cache", FORMAT).flush)
        print(
            f"\nWaiting for the disk at the end of `prepare`: {1000 * seconds / args.clips:.3f} ms per clip."
        )
        size = sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file())
        print(f"The cache takes {size / args.clips:.0f} bytes a clip on disk.")
        print(f"Memory of a process that reads an epoch of its own: {memory_line(folder)}.")


def pairs(folder: Path, names: list[str], repeats: int) -> Iterator[Pair]:
    yield build_pair(folder, names, repeats)
    yield epoch_pair(folder, names, repeats)
    yield from responses_pairs(folder, repeats)


def write_clips(root: Path, count: int) -> list[str]:
    """Noise: neither decoding nor resampling takes another time for speech or streets."""
    root.mkdir(parents=True)
    generator = np.random.default_rng(0)
    names = [f"{number}.wav" for number in range(count)]
    for name in names:
        soundfile.write(root / name, 0.1 * generator.standard_normal(RATE), RATE, subtype="PCM_16")
    return names


def decode_one_by_one(root: Path, names: list[str]) -> None:
    for name in names:
        librosa.load(root / name, sr=SAMPLE_RATE)


def build_pair(folder: Path, names: list[str], repeats: int) -> Pair:
    """Everything that `prepare` does to a new data set:
    hashing, decoding, resampling, levels, checksums, writing."""
    root, cache = folder / "clips", folder / "cache"

    def clear() -> None:
        shutil.rmtree(cache, ignore_errors=True)

    def build() -> None:
        build_cache(root, names, cache_root=cache, format=FORMAT, workers=2)

    taken = measure_pair(
        lambda: decode_one_by_one(root, names), build, clips=len(names), repeats=repeats, before=clear
    )
    return Pair("building the cache: librosa.load one by one, two processes", *taken)


def build_parts(folder: Path, names: list[str]) -> Iterator[tuple[str, float]]:
    """Where the time of a build goes, step by step."""
    root, names = folder / "clips", names[:1024]
    resample = Resampler(SAMPLE_RATE)
    read = [read_mono(root / name) for name in names]
    resampled = [resample(*audio) for audio in read]
    with open(folder / "written", "wb", buffering=0) as file:
        steps: dict[str, Callable[[], object]] = {
            "hashing the files": lambda: [hash_of(str(root / name)) for name in names],
            "reading and decoding": lambda: [read_mono(root / name) for name in names],
            "resampling": lambda: [resample(*audio) for audio in read],
            "levels": lambda: [levels_of(audio) for audio, _ in read],
            "checksums": lambda: [checksum(as_stored(clip, FORMAT)) for clip in resampled],
            "writing": lambda: [
                write_at(file.fileno(), clip, place * FORMAT.row_bytes)
                for place, clip in enumerate(resampled)
            ],
        }
        for what, step in steps.items():
            yield what, statistics.median(seconds_of(step) for _ in range(3)) * 1000 / len(names)


def clips_of(waveforms: WaveformCache, count: int) -> ClipSet:
    targets, devices = np.zeros((count, 10), dtype=np.float32), np.zeros(count, dtype=np.int64)
    names = tuple(str(row) for row in range(count))
    source = CachedWaveforms(waveforms, np.arange(count), Sample(SAMPLE_RATE))
    return clip_set(names, source, targets=targets, devices=devices)


def shuffled(clips: ClipSet, epoch: int = 0) -> DataLoader[ClipBatch]:
    return clip_loader(clips, batch_size=BATCH, loading=Loading(workers=0), seed=0, epoch=epoch)


def epoch_pair(folder: Path, names: list[str], repeats: int) -> Pair:
    """A shuffled epoch in batches."""
    clips = clips_of(open_cache(folder / "cache", FORMAT), len(names))
    epochs = itertools.count()

    def epoch() -> None:
        for _ in shuffled(clips, next(epochs)):
            pass

    taken = measure_pair(
        lambda: decode_one_by_one(folder / "clips", names), epoch, clips=len(names), repeats=repeats
    )
    return Pair("a shuffled epoch: librosa.load one by one, loader", *taken)


def responses_pairs(folder: Path, repeats: int) -> Iterator[Pair]:
    """Impulse responses of a batch:
    read, resampled and convolved clip by clip against one product of spectra."""
    root = folder / "responses"
    root.mkdir()
    generator, decay = np.random.default_rng(0), np.exp(-np.arange(RESPONSE_SAMPLES) / 500)
    for place in range(RESPONSES):
        soundfile.write(
            root / f"{place}.wav", decay * generator.standard_normal(RESPONSE_SAMPLES), RATE, subtype="FLOAT"
        )
    bank, paths = load_responses(root, sample_rate=SAMPLE_RATE, level="unit_energy"), sorted(root.iterdir())
    waveforms, choice = torch.randn(BATCH, SAMPLE_RATE), torch.randint(len(bank), (BATCH,))
    functional = import_torchaudio().functional

    def with_torchaudio() -> None:
        for clip, place in zip(waveforms, choice.tolist(), strict=True):
            response, rate = soundfile.read(paths[place], dtype="float32")
            resampled = functional.resample(torch.from_numpy(response), rate, SAMPLE_RATE)
            functional.fftconvolve(clip, resampled)[:SAMPLE_RATE]

    def with_soxr() -> None:
        for clip, place in zip(waveforms.numpy(), choice.tolist(), strict=True):
            response, rate = soundfile.read(paths[place], dtype="float32")
            fftconvolve(clip, soxr.resample(response, rate, SAMPLE_RATE))[:SAMPLE_RATE]

    for name, loop in (("torchaudio", with_torchaudio), ("soxr and scipy", with_soxr)):
        taken = measure_pair(loop, lambda: bank.convolve(waveforms, choice), clips=BATCH, repeats=repeats)
        yield Pair(
            f"impulse responses of a batch of {BATCH}: read each time by {name}, spectra in memory", *taken
        )


def anonymous_megabytes() -> float:
    """Memory of this process that is not a mapped file, which the system takes back at will."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 1000


def megabytes_of_an_epoch(cache: Path, clips: int) -> float:
    """Highest growth of this process's own memory while it reads an epoch."""
    loader, before = shuffled(clips_of(open_cache(cache, FORMAT), clips)), anonymous_megabytes()
    return max(anonymous_megabytes() - before for _ in loader)


def memory_line(folder: Path) -> str:
    """In a new process each, whose memory nothing else has filled before."""
    clips = len(open_cache(folder / "cache", FORMAT))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        sizes = (clips // 8, clips)
        grown = pool.map(megabytes_of_an_epoch, [folder / "cache"] * len(sizes), sizes)
        return ", ".join(
            f"{megabytes:.0f} MB for {size} clips" for size, megabytes in zip(sizes, grown, strict=True)
        )


if __name__ == "__main__":
    main()
