"""The clips that a setting mistakes with the highest confidence:
which they are, how they look and how they sound."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import soundfile
from matplotlib.figure import Figure
from torch import Tensor

from adaptf.evaluation.scores import Runs, places_of, probabilities
from adaptf.reports.data_figures import draw_log_mels
from adaptf.reports.figures import save

_SHOWN = 12
RULE = (
    "Wrong answers given with the highest probability: of each scene and place the surest one, and in turn "
    "of each true scene, so that no place and no scene fills the list."
)
PROBABILITY, TRUE_PROBABILITY = "probability", "probability of the true scene"
PLAYED_SECONDS = 2.0
"""A page holds so much of each clip at most."""
PEAK = 0.5
"""To which the sound of every clip is brought: recordings differ in level by a hundred times."""


def hardest_clips(runs: Runs, scenes: Sequence[str], *, count: int = _SHOWN) -> pd.DataFrame:
    """Clips chosen by RULE, the surest mistake first.

    Columns: filename, scene, device, location, predicted, PROBABILITY of what was predicted,
    TRUE_PROBABILITY, and a probability per scene.
    Of several runs the mean of their probabilities decides. Equal ones are taken by file name.
    """
    clips = _mean_probabilities(runs, scenes)
    wrong = clips[clips["predicted"] != clips["scene"]].sort_values(
        [PROBABILITY, "filename"], ascending=[False, True]
    )
    one_per_place = wrong[~pd.concat([wrong["scene"], places_of(wrong)], axis=1).duplicated()]
    turn = one_per_place.groupby("scene").cumcount()
    chosen = one_per_place.loc[turn.sort_values(kind="stable").index[:count]]
    return chosen.sort_values([PROBABILITY, "filename"], ascending=[False, True], ignore_index=True)


def _mean_probabilities(runs: Runs, scenes: Sequence[str]) -> pd.DataFrame:
    """The first run's clips with what all runs together make of them."""
    each = [pd.DataFrame(probabilities(run, scenes), run["filename"], list(scenes)) for run in runs]
    mean = pd.concat(each).groupby(level=0, sort=False).mean()
    clips = runs[0][["filename", "scene", "device", "location"]].set_index("filename")
    clips["predicted"], clips[PROBABILITY] = mean.idxmax(axis=1), mean.max(axis=1)
    true = mean.columns.get_indexer(pd.Index(clips["scene"]))
    clips[TRUE_PROBABILITY] = mean.loc[clips.index].to_numpy()[range(len(clips)), true]
    return clips.join(mean).reset_index()


def write_pictures(waveforms: Tensor, folder: Path, *, sample_rate: int) -> list[Path]:
    """The log-mel of each clip (clips, samples) as `01.png`, `02.png`, ..., all in the same colours."""
    figures = [Figure(figsize=(2.9, 1.5), layout="constrained") for _ in waveforms]
    cells = [figure.subplots() for figure in figures]
    draw_log_mels(cells, waveforms, sample_rate, scales=cells, interpolation="nearest")
    return [save(figure, folder / f"{number:02}.png") for number, figure in enumerate(figures, 1)]


def write_sounds(waveforms: Tensor, folder: Path, *, sample_rate: int) -> list[Path]:
    """Each clip (clips, samples) as `01.flac`, `02.flac`, ..., at PEAK, its first PLAYED_SECONDS.

    FLAC: every browser plays it, and the same samples make the same bytes,
    which an OGG stream's random number prevents.
    """
    part = waveforms[:, : round(PLAYED_SECONDS * sample_rate)]
    levelled = part * (PEAK / part.abs().amax(dim=1, keepdim=True).clamp(min=1e-6))
    paths = [folder / f"{number:02}.flac" for number in range(1, len(levelled) + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    for path, samples in zip(paths, levelled.numpy(), strict=True):
        soundfile.write(path, samples, sample_rate, subtype="PCM_16")
    return paths
