"""What `evaluate` leaves in its run."""

from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from adaptf.data.cache.waveforms import WaveformCache
from adaptf.evaluation.scores import Runs, prediction_table
from adaptf.mlproject.evaluate import EVALUATE, EvaluateConfig
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.artifacts import SCENES_KIND
from adaptf.pipeline.dataset import PreparedData, load_prepared
from adaptf.pipeline.prediction_files import read_predictions
from adaptf.pipeline.stage import execute
from adaptf.reports.evaluation_report import report
from adaptf.reports.settings_sections import NO_SOUND
from adaptf.tracking.stage_run import StageRun


@pytest.fixture(scope="module")
def trained(train_config: TrainConfig) -> str:
    return execute(TRAIN, train_config)


@pytest.fixture(scope="module")
def evaluated(train_config: TrainConfig, trained: str) -> str:
    """One setting of one run."""
    nothing = dict.fromkeys(("distill_run", "finetune_run", "quantize_run"), "none")
    return execute(
        EVALUATE,
        EvaluateConfig(prepare_run=train_config.prepare_run, train_run=trained, accelerator="cpu", **nothing),
    )


@pytest.fixture(scope="module")
def artifacts(evaluated: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=evaluated))


@pytest.fixture
def prepared_data(train_config: TrainConfig, tmp_path: Path) -> PreparedData:
    with mlflow.start_run() as active:
        return load_prepared(
            StageRun(active.info.run_id, "evaluate", tmp_path), train_config.prepare_run, kind=SCENES_KIND
        )


@pytest.fixture
def settings(evaluated: str, tmp_path: Path) -> dict[str, Runs]:
    """Answers drawn at random, of which some are wrong, whatever was learnt."""
    clips = read_predictions(StageRun("none", "evaluate", tmp_path), evaluated, "trained")
    logits = np.random.default_rng(0).standard_normal((len(clips), 2)).astype(np.float32)
    return {"trained": [prediction_table(clips, logits, ("airport", "bus"))]}


def write_page(settings: dict[str, Runs], data: PreparedData, folder: Path) -> str:
    folder.mkdir()
    report(settings, data, StageRun("none", "evaluate", folder), remark="")
    return (folder / "report.html").read_text()


def test_evaluate_leaves_a_page_and_the_same_as_csv_and_png(
    artifacts: Path, evaluated: str, trained: str
) -> None:
    page = (artifacts / "report.html").read_text()
    for text in (
        trained,
        "macro average",
        "There is one setting",
        "No INT8 models were evaluated",
        "Reliability diagrams",
    ):
        assert text in page
    pictures = {path.name for path in artifacts.glob("*.png")}
    assert {"accuracy.png", "confusion.png", "confusion_devices.png", "devices.png"} <= pictures
    assert {"reliability.png", "rejection.png"} <= pictures
    tables = {path.name for path in (artifacts / "tables").iterdir()}
    names = ("scenes", "devices", "calibration", "reliability", "rejection", "confusions")
    assert {*(f"{name}.csv" for name in names), "predictions trained.parquet"} <= tables
    note = mlflow.get_run(evaluated).data.tags["mlflow.note.content"]
    assert f"runs/{evaluated}/artifacts/report.html)" in note and f"runs/{trained})" in note


def test_the_hardest_clips_are_mistakes_with_picture_and_sound(artifacts: Path) -> None:
    clips = pd.read_csv(artifacts / "hardest" / "hardest.csv", dtype={"number": str})
    answers = pd.read_parquet(artifacts / "tables" / "predictions trained.parquet").set_index("filename")
    mistakes = set(answers.index[answers["scene"] != answers["predicted"]])
    assert set(clips["filename"]) <= mistakes and clips.empty == (not mistakes)
    for number in clips["number"]:
        assert (artifacts / "hardest" / f"{number}.png").is_file() and (
            artifacts / "hardest" / f"{number}.flac"
        ).is_file()
    assert (artifacts / "report.html").read_text().count("<audio") == len(clips)


def test_confusions_by_device_count_every_clip_once(artifacts: Path) -> None:
    counts = pd.read_csv(artifacts / "tables" / "confusions.csv", index_col=["setting", "device", "scene"])
    assert counts.to_numpy().sum() == len(
        pd.read_parquet(artifacts / "tables" / "predictions trained.parquet")
    )


def test_the_calibration_error_is_a_metric(artifacts: Path, evaluated: str) -> None:
    table = pd.read_csv(artifacts / "tables" / "calibration.csv", index_col="setting")
    metric = mlflow.get_run(evaluated).data.metrics["test/calibration_error/trained"]
    assert metric == pytest.approx(table["calibration error"]["trained"] / 100)


def test_the_same_predictions_make_the_same_page(
    settings: dict[str, Runs], prepared_data: PreparedData, tmp_path: Path
) -> None:
    assert write_page(settings, prepared_data, tmp_path / "a") == write_page(
        settings, prepared_data, tmp_path / "b"
    )


def test_where_the_audio_is_gone_the_page_says_so(
    settings: dict[str, Runs], prepared_data: PreparedData, tmp_path: Path
) -> None:
    cache = prepared_data.waveforms
    empty = WaveformCache(tmp_path / "nowhere", cache.format, cache.index.iloc[:0])
    lost = WaveformCache(tmp_path / "nowhere", cache.format, cache.index)
    for place, waveforms in enumerate((empty, lost)):
        page = write_page(settings, replace(prepared_data, waveforms=waveforms), tmp_path / f"page {place}")
        assert NO_SOUND in page and "<audio" not in page


def test_data_of_one_device_and_several_runs_per_setting_make_a_page(
    settings: dict[str, Runs], prepared_data: PreparedData, tmp_path: Path
) -> None:
    (run,) = settings["trained"]
    clips = run[run["device"] == "a"].reset_index(drop=True)
    rows = prepared_data.table[prepared_data.table["device"] == "a"]
    page = write_page(
        {"one <i>": [clips, clips], "other": [clips, clips]},
        replace(prepared_data, table=rows),
        tmp_path / "page",
    )
    assert "2 runs, shown by their mean" in page and "one &lt;i&gt;" in page and "<i>" not in page
