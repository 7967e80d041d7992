"""What the waveform cache's int16 option does to the log-mels of recordings, and to their size.

python benchmarks/int16.py FOLDER_OF_AUDIO
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch

from adaptf.audio.logmel import LogMel
from adaptf.data.cache.build import as_stored
from adaptf.data.cache.shards import CacheFormat
from adaptf.data.cache.waveforms import as_float
from adaptf.data.decode import AUDIO_SUFFIXES, Waveform, decode
from adaptf.data.folders import files_below

EXACT, ROUNDED = CacheFormat(32000, 32000), CacheFormat(32000, 32000, "int16")
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every n-th clip only")
    args = parser.parse_args()
    logmel, square, highest, above, count = LogMel(bands=512), 0.0, 0.0, 0, 0
    paths = [args.folder / name for name in files_below(args.folder, suffixes=AUDIO_SUFFIXES)]
    clips = itertools.islice((clip for path in paths for clip in whole_clips(path)), 0, None, args.every)
    while batch := list(itertools.islice(clips, BATCH)):
        exact, rounded = (
            logmel(torch.stack([as_float(torch.from_numpy(as_stored(clip, format))) for clip in batch]))
            for format in (EXACT, ROUNDED)
        )
        difference = (exact - rounded).abs()
        square += float(difference.square().sum())
        highest = max(highest, float(difference.max()))
        above += int((difference > 0.01).sum())
        count += difference.numel()
    print(
        f"{count // (512 * 64)} clips: log-mel values move by {(square / count) ** 0.5:.4f} RMS and by "
        f"{highest:.2f} at most, {100 * above / count:.2f} % of them by more than 0.01"
    )


def whole_clips(path: Path) -> Iterator[Waveform]:
    """The seconds of a recording, one after the other."""
    audio = decode(path, sample_rate=EXACT.sample_rate)
    whole = len(audio) // EXACT.clip_samples
    yield from audio[: whole * EXACT.clip_samples].reshape(whole, EXACT.clip_samples)


if __name__ == "__main__":
    main()
