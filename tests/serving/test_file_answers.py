"""Answers to files: those of the router to the same audio, in one process or in several."""

import base64
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from adaptf.data.processes import process_pool
from adaptf.serving.file_answers import (
    ANSWER_COLUMNS,
    answer_files,
    by_networks,
    by_networks_on_one_core,
    write_answers,
)
from adaptf.serving.local import local_router

KINDS = {
    "a.wav": (1.0, 44_100, 1),
    "b.wav": (1.0, 32_000, 2),
    "c.flac": (3.6, 48_000, 1),
    "d.wav": (0.2, 8_000, 1),
    "e.ogg": (2.3, 22_050, 2),
    "f.wav": (1.0, 44_100, 8),
    "g.mp3": (4.0, 44_100, 2),
    "h.wav": (40.0, 16_000, 1),
}
"""Seconds, samples a second, channels."""
DEVICES = ["a", "b", " a ", "unknown", "elsewhere", "", "b", "a"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, noise: Callable[..., np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for seed, (name, (seconds, rate, channels)) in enumerate(KINDS.items()):
        samples = noise(round(seconds * rate) * channels, seed).reshape(-1, channels)
        soundfile.write(folder / name, samples, rate)
    return folder


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.DataFrame({"filename": list(KINDS), "device": DEVICES})


@pytest.fixture(scope="module")
def of_router(root: Path, table: pd.DataFrame, bundle: Path) -> pd.DataFrame:
    """What it answers to the files as they are."""
    audio = [base64.b64encode((root / name).read_bytes()).decode() for name in table["filename"]]
    return local_router(bundle).predict(None, table[["device"]].assign(audio=audio))


def test_files_of_any_rate_length_and_number_of_channels_are_answered_as_by_the_router(
    root: Path, table: pd.DataFrame, bundle: Path, of_router: pd.DataFrame
) -> None:
    answers = answer_files(table, root, by_networks(bundle))
    assert list(answers.columns) == [*ANSWER_COLUMNS, *of_router["probabilities"][0]]
    told = ["scene", "device_asked", "device_used", "version_used"]
    assert answers["filename"].tolist() == table["filename"].tolist()
    assert answers[told].to_numpy().tolist() == of_router[told].to_numpy().tolist()
    wanted = np.array([list(row.values()) for row in of_router["probabilities"]])
    assert np.abs(answers.iloc[:, len(ANSWER_COLUMNS) :].to_numpy() - wanted).max() < 1e-9
    assert np.abs(answers["probability"] - of_router["probability"]).max() < 1e-9


def test_processes_beside_each_other_write_the_bytes_that_this_one_does(
    root: Path, table: pd.DataFrame, bundle: Path, tmp_path: Path
) -> None:
    parts = {"first.csv": table.iloc[:5], "second.csv": table.iloc[5:]}
    who = partial(by_networks_on_one_core, bundle)
    with process_pool(2, fresh=True) as pool:
        places = [tmp_path / part for part in parts]
        assert list(pool.map(partial(write_answers, root=root, who=who), places, parts.values())) == [5, 3]
    asked = by_networks(bundle)
    for part, rows in parts.items():
        alone = answer_files(rows, root, asked).to_csv(index=False, float_format="%.9g")
        assert (tmp_path / part).read_text() == alone
