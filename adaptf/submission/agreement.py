"""Whether a package says of every clip what the registered networks say."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from adaptf.audio.logmel import LogMel
from adaptf.compression.int8 import CLIPS_AT_ONCE, Int8Network
from adaptf.data.cuts import cut_file
from adaptf.data.decode import Resampler
from adaptf.errors import UserError
from adaptf.submission.models import Submitted

_NAMED = 10
"""Clips that an error names."""


@torch.no_grad()
def reference_logits(models: Submitted, test: pd.DataFrame, root: Path) -> NDArray[np.float32]:
    """What the registered networks (.pt2) say of the test clips, in the same portions as the package, so that
    no sum is rounded in another way: (clips, scenes)."""
    log_mel, resample = LogMel(**models.log_mel), Resampler(models.sample_rate)
    used = test["device"].map(models.device_used)
    logits = np.zeros((len(test), len(models.scenes)), dtype=np.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for device, rows in used.groupby(used).groups.items():
            network = Int8Network(models.programs[str(device)])
            for start in range(0, len(rows), CLIPS_AT_ONCE):
                part = rows[start : start + CLIPS_AT_ONCE]
                clips = [
                    _first_clip(root / name, resample, models.clip_samples)
                    for name in test.loc[part, "filename"]
                ]
                logits[part] = network(log_mel(torch.from_numpy(np.stack(clips)))).numpy()
    finally:
        torch.set_num_threads(threads)
    return logits


def _first_clip(path: Path, resample: Resampler, samples: int) -> NDArray[np.float32]:
    """The beginning of a file (samples), silence behind a shorter one."""
    clip = next(cut_file(path, resample, clip_samples=samples)).clip
    return np.pad(clip, (0, samples - len(clip)))


def check_scenes(
    found: NDArray[np.float32], wanted: NDArray[np.float32], test: pd.DataFrame, scenes: list[str]
) -> None:
    """Raises UserError that names the first clips of which the package says another scene."""
    said, right = found.argmax(axis=1), wanted.argmax(axis=1)
    wrong, most = np.flatnonzero(said != right), np.abs(found - wanted).max()
    print(f"largest difference of logits on {len(test)} test clips: {most:.2g}", flush=True)
    problems = [
        f"{test['filename'][row]}: {scenes[said[row]]} instead of {scenes[right[row]]}"
        for row in wrong[:_NAMED]
    ]
    if problems:
        raise UserError(
            f"the package says another scene than the registered versions on {len(wrong)} of {len(test)} "
            "test clips:\n  " + "\n  ".join(problems)
        )
