"""The choice of the hardest clips, their pictures and sounds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from adaptf.evaluation.scores import prediction_table
from adaptf.reports.hardest_clips import PEAK, hardest_clips, write_pictures, write_sounds

SCENES = ("bus", "park", "tram")
RATE = 32000


def run_of(rows: list[tuple[str, str, str, float]]) -> pd.DataFrame:
    """Clips (scene, location, predicted, probability of that);
    the rest of the probability is shared by the other scenes."""
    scene, location, predicted, probability = (list(column) for column in zip(*rows, strict=True))
    clips = pd.DataFrame(
        {
            "filename": [f"{row}.wav" for row in range(len(rows))],
            "scene": scene,
            "device": "a",
            "location": location,
        }
    )
    both = zip(predicted, probability, strict=True)
    answers = np.array(
        [[share if name == said else (1 - share) / 2 for name in SCENES] for said, share in both]
    )
    return prediction_table(clips, np.log(answers).astype(np.float32), SCENES)


def test_the_surest_mistakes_come_first_and_right_answers_never() -> None:
    run = run_of(
        [
            ("bus", "x", "bus", 0.99),
            ("bus", "y", "tram", 0.6),
            ("park", "x", "tram", 0.9),
            ("tram", "x", "bus", 0.7),
        ]
    )
    found = hardest_clips([run], SCENES)
    assert list(found["filename"]) == ["2.wav", "3.wav", "1.wav"]
    assert list(found["predicted"]) == ["tram", "bus", "tram"]
    assert list(found["probability"]) == pytest.approx([0.9, 0.7, 0.6])
    assert list(found["probability of the true scene"]) == pytest.approx([0.05, 0.15, 0.2])


def test_a_scene_does_not_fill_the_list() -> None:
    buses = [("bus", f"place {number}", "tram", 0.9 + number / 1000) for number in range(10)]
    run = run_of([*buses, ("park", "x", "bus", 0.5), ("tram", "x", "bus", 0.6)])
    assert sorted(hardest_clips([run], SCENES, count=4)["scene"]) == ["bus", "bus", "park", "tram"]


def test_a_place_is_shown_once_per_scene_and_unknown_places_by_their_file() -> None:
    rows = [
        ("bus", "x", "tram", 0.9),
        ("bus", "x", "park", 0.8),
        ("bus", "", "park", 0.7),
        ("bus", "", "park", 0.6),
    ]
    assert list(hardest_clips([run_of(rows)], SCENES)["filename"]) == ["0.wav", "2.wav", "3.wav"]


def test_several_runs_answer_by_their_mean_whatever_the_order_of_their_clips() -> None:
    first = run_of([("bus", "x", "tram", 0.9), ("park", "y", "park", 0.9)])
    second = run_of([("bus", "x", "bus", 0.5), ("park", "y", "bus", 0.6)]).iloc[::-1].reset_index(drop=True)
    (row,) = hardest_clips([first, second], SCENES).to_dict("records")
    assert (row["filename"], row["predicted"]) == ("0.wav", "tram")
    assert row["probability"] == pytest.approx((0.9 + 0.25) / 2)


def test_nothing_is_hard_for_a_model_that_is_always_right() -> None:
    assert hardest_clips([run_of([("bus", "x", "bus", 0.9)])], SCENES).empty


def test_pictures_and_sounds_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    clips = 0.001 * torch.randn(3, RATE, generator=torch.Generator().manual_seed(0))
    made = [
        [
            *write_pictures(clips, tmp_path / name, sample_rate=RATE),
            *write_sounds(clips, tmp_path / name, sample_rate=RATE),
        ]
        for name in ("first", "second")
    ]
    assert [path.name for path in made[0]] == ["01.png", "02.png", "03.png", "01.flac", "02.flac", "03.flac"]
    assert [path.read_bytes() for path in made[0]] == [path.read_bytes() for path in made[1]]


def test_sounds_are_levelled_and_cut_and_silence_stays_silent(tmp_path: Path) -> None:
    quiet, silence = 0.01 * torch.sin(torch.arange(3 * RATE) / 10), torch.zeros(3 * RATE)
    loud, silent = write_sounds(torch.stack([quiet, silence]), tmp_path, sample_rate=RATE)
    samples, rate = soundfile.read(loud)
    assert (len(samples), rate) == (2 * RATE, RATE)
    assert np.abs(samples).max() == pytest.approx(PEAK, abs=1e-3)
    assert not soundfile.read(silent)[0].any()
