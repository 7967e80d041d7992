"""The profiles that `register` makes of a quantization's validation clips."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest

from adaptf.data.clips import VALIDATION
from adaptf.data.parquet import write_table
from adaptf.evaluation.profile import CONFIDENCE, KINDS, LEVEL, SCENES, SPECTRUM, Profile
from adaptf.evaluation.scores import prediction_table
from adaptf.pipeline import profiles
from adaptf.pipeline.artifacts import SCENES_KIND, VALIDATION_PREDICTIONS
from adaptf.pipeline.dataset import look_at_prepared
from adaptf.pipeline.profiles import ProfileConfig, device_profiles
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import UPSTREAM

WANTED, MEL, CLASSES = ProfileConfig(bins=4), {"bands": 16}, ["airport", "bus"]
Made = Callable[[], dict[str, Profile]]


@pytest.fixture
def made(prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Of a run whose model of device a, and that of `unknown`, are sure that all is a bus."""
    monkeypatch.setattr(profiles, "FEWEST_PLACES", 2)
    data = look_at_prepared(StageRun("", "test", tmp_path), prepared, kind=SCENES_KIND)
    clips = data.table[data.table["split"] == VALIDATION]
    said = prediction_table(clips, np.tile(np.float32([0, 9]), (len(clips), 1)), CLASSES)
    folder = tmp_path / VALIDATION_PREDICTIONS
    folder.mkdir()
    for device in ("a", "unknown"):
        write_table(folder / f"{device}.parquet", said)
    with mlflow.start_run(tags={f"{UPSTREAM}prepare_run": prepared}) as run:
        mlflow.log_artifacts(str(folder), VALIDATION_PREDICTIONS)
    work = StageRun("", "register", tmp_path)
    return lambda: device_profiles(work, run.info.run_id, CLASSES, MEL, WANTED)


def test_a_device_is_told_by_its_own_validation_clips_and_unknown_by_all(made: Made, capsys):
    found = made()
    assert {device: (one.clips, one.places) for device, one in found.items()} == {
        "a": (2, 2), "unknown": (6, 2)
    }  # fmt: skip
    assert "register: drift of unknown is told by 6 validation clips of 2 places" in capsys.readouterr().out
    unknown = found["unknown"]
    assert unknown.window_clips == WANTED.window_clips and unknown.steps == 15  # of 16 bands
    assert {kind: held.counts.shape for kind, held in unknown.kinds.items()} == {
        LEVEL: (1, 4), SPECTRUM: (15, 4), CONFIDENCE: (1, 4), SCENES: (1, 2)
    }  # fmt: skip
    assert unknown.kinds[SCENES].counts.tolist() == [[0, 6]]
    assert all(0 <= unknown.kinds[kind].limit <= 1 for kind in KINDS)


def test_a_device_of_too_few_places_has_none_and_it_is_said(made: Made, monkeypatch, capsys):
    monkeypatch.setattr(profiles, "FEWEST_PLACES", 3)
    assert made() == {}
    said = capsys.readouterr().out
    assert "drift of a is not watched: 2 validation clips of 2 places, it takes 3" in said


def test_without_validation_clips_on_this_machine_versions_have_none_and_it_is_said(
    made: Made, folder: Path, capsys
):
    moved = [(folder / name, folder / f"{name} away") for name in ("cache", "tau")]
    for here, away in moved:
        here.rename(away)
    try:
        assert made() == {}
    finally:
        for here, away in moved:
            away.rename(here)
    said = capsys.readouterr().out
    assert "drift is not watched: there is nothing to make profiles of: neither the waveform cache" in said
