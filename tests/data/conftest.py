"""A small data set of noise in the layout of TAU 2022 Mobile."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

RATE = 44100


def write_tau(root: Path, *, scenes=("airport", "bus"), locations=6, clips=3, seconds=1.0) -> Path:
    """Each scene has so many locations; the last two are for testing."""
    generator = np.random.default_rng(0)
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    rows, train, test = [], [], []
    for scene in scenes:
        for location in range(locations):
            for clip in range(clips):
                device = "abc"[clip % 3]
                name = f"audio/{scene}-paris-{location}-{location}-{clip}-{device}.wav"
                samples = 0.1 * generator.standard_normal(int(seconds * RATE))
                soundfile.write(root / name, samples, RATE, subtype="PCM_16")
                rows.append((name, scene, f"paris-{scene}-{location}", device))
                (test if location >= locations - 2 else train).append((name, scene))
    columns = ["filename", "scene_label", "identifier", "source_label"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "meta.csv", sep="\t", index=False)
    for name, listed in (("train", train), ("evaluate", test)):
        table = pd.DataFrame(listed, columns=["filename", "scene_label"])
        table.to_csv(root / f"evaluation_setup/fold1_{name}.csv", sep="\t", index=False)
    return root


@pytest.fixture
def tau(tmp_path) -> Path:
    return write_tau(tmp_path / "tau")


@pytest.fixture
def names(tau) -> list[str]:
    """Every clip's name, relative to the data set's folder."""
    return sorted(path.relative_to(tau).as_posix() for path in tau.rglob("*.wav"))
