"""Stage `prepare`: its report, what it refuses, own data and AudioSet."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from fixtures.noise_data import write_cochlscene

from adaptf.data import hashes
from adaptf.data.decode import decode
from adaptf.data.errors import DataError
from adaptf.data.shared_objects import SharedObjects
from adaptf.errors import UserError
from adaptf.mlproject import prepare as stage
from adaptf.mlproject.prepare import PREPARE, PrepareConfig
from adaptf.mlproject.pretrain import PRETRAIN, PretrainConfig
from adaptf.pipeline.artifacts import AUDIOSET_KIND, SCENES_KIND
from adaptf.pipeline.config import DataConfig, MelConfig, ModelConfig, OptimConfig, TrainerConfig
from adaptf.pipeline.dataset import load_prepared, load_tested
from adaptf.pipeline.stage import execute
from adaptf.tracking.runs import metric_per_epoch, scores
from adaptf.tracking.stage_run import StageRun
from adaptf.training.divergence import Diverged

pytestmark = pytest.mark.slow

RATE = 44100


def noise(path: Path, seconds: float, *, seed: int, gain: float = 0.1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = gain * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    soundfile.write(path, np.clip(samples, -1, 1), RATE, subtype="PCM_16")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Eight files of 2.6 s, two scenes, two devices, a place each."""
    rows = []
    for number in range(8):
        name = f"sounds/{number}.wav"
        noise(tmp_path / name, 2.6, seed=number)
        rows.append(
            (name, ("Kitchen", "Büro")[number % 2], ("my phone", "recorder")[number // 4], f"place {number}")
        )
    table = pd.DataFrame(rows, columns=["filename", "scene", "device", "location"])
    table.to_csv(tmp_path / "clips.csv", index=False)
    return tmp_path / "clips.csv"


def run_prepare(environment: dict[str, str], folder: Path, root: Path, **settings: object) -> str:
    data = DataConfig(root=str(root), cache=str(folder / "cache"), workers=1, validation_share=0.25)
    return execute(PREPARE, PrepareConfig(replace(data, **settings)))  # type: ignore[arg-type]


def artifact(run_id: str, path: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path))


def edit(table: Path, **columns: object) -> None:
    pd.read_csv(table, dtype=str).assign(**columns).to_csv(table, index=False)


def test_the_example_of_own_recordings_with_two_places_a_scene_can_be_trained_on(
    environment: dict[str, str], tmp_path: Path
) -> None:
    rows = []
    for number in range(12):
        place = ("market", "townhall", "station", "north")[number % 4]
        noise(tmp_path / f"{place}/{number:03d}.wav", 1.2, seed=number)
        rows.append(
            (f"{place}/{number:03d}.wav", ("public_square", "metro_station")[number % 4 // 2], "phone", place)
        )
    pd.DataFrame(rows, columns=["filename", "scene", "device", "location"]).to_csv(
        tmp_path / "clips.csv", index=False
    )
    run_id = run_prepare(environment, tmp_path, tmp_path / "clips.csv")
    metrics = mlflow.get_run(run_id).data.metrics
    assert [metrics[f"clips/{split}"] for split in ("train", "validation", "test")] == [4, 2, 6]
    text = " ".join(artifact(run_id, "report/report.txt").read_text().split())
    assert (
        "whole files were cut out of metro_station, public_square instead, from places that are trained on"
        in text
    )


def test_data_without_test_clips_can_be_trained_on_but_not_evaluated(
    environment: dict[str, str], tmp_path: Path, own: Path
) -> None:
    run_id = run_prepare(environment, tmp_path, own, test_share=0.0)
    assert "There are no test clips" in artifact(run_id, "report/report.txt").read_text()
    with (
        mlflow.start_run(),
        pytest.raises(UserError, match=r"has no test clips, of which evaluate and main make their tables"),
    ):
        load_tested(StageRun(run_id="", name="", folder=tmp_path / "work"), run_id)


def test_a_cache_where_no_folder_can_be_made_is_refused(
    environment: dict[str, str], tmp_path: Path, own: Path
) -> None:
    (tmp_path / "file").touch()
    for place in ("file", "file/cache"):
        with pytest.raises(UserError, match=r"data\.cache is '.*file.*', where no file can be written"):
            run_prepare(environment, tmp_path, own, cache=str(tmp_path / place))


def test_data_without_validation_clips_is_refused_before_any_file_is_read(
    environment: dict[str, str], tmp_path: Path, own: Path
) -> None:
    shutil.rmtree(own.parent / "sounds")
    with pytest.raises(UserError, match=r"no validation clips, by which training chooses its checkpoint"):
        run_prepare(environment, tmp_path, own, validation_share=0.0)


def test_the_report_is_text_a_table_of_findings_and_two_pictures(prepared: str) -> None:
    assert "36 clips of" in artifact(prepared, "report/report.txt").read_text()
    assert list(pd.read_csv(artifact(prepared, "report/findings.csv")).columns) == ["finding", "filename"]
    for picture in ("clips.png", "log_mels.png"):
        assert artifact(prepared, f"report/{picture}").read_bytes().startswith(b"\x89PNG")


def test_the_data_set_with_its_digest_is_the_runs_input(prepared: str) -> None:
    run = mlflow.get_run(prepared)
    (data_set,) = run.inputs.dataset_inputs
    assert data_set.dataset.name == "tau"
    assert data_set.dataset.digest == run.data.tags["adaptf.digest"]
    assert (
        data_set.dataset.digest == json.loads(artifact(prepared, "data/dataset.json").read_text())["digest"]
    )


def test_own_data_of_any_length_is_cut_and_the_report_says_so(
    environment: dict[str, str], tmp_path: Path, own: Path
) -> None:
    noise(own.parent / "sounds/0.wav", 0.4, seed=100)
    run_id = run_prepare(environment, tmp_path, own)
    table = pd.read_parquet(artifact(run_id, "data/clips.parquet"))
    assert len(table) == 1 + 7 * 3
    assert table["filename"][:4].tolist() == [
        "sounds/0.wav",
        "sounds/1.wav#t=0",
        "sounds/1.wav#t=1",
        "sounds/1.wav#t=2",
    ]
    assert (table.groupby(table["filename"].str.partition("#")[0])["split"].nunique() == 1).all()
    report = artifact(run_id, "report/report.txt").read_text()
    assert "longer files were cut into 21 clips of 1 s: 7 files" in report
    assert "files shorter than 1 s were padded with zeros at the end: 1 files" in report
    assert json.loads(artifact(run_id, "data/dataset.json").read_text())["classes"] == ["Büro", "Kitchen"]


def test_own_data_can_be_trained_on_by_its_own_names(
    environment: dict[str, str], tmp_path: Path, own: Path
) -> None:
    run_id = run_prepare(environment, tmp_path, own)
    with mlflow.start_run():
        data = load_prepared(StageRun(run_id="", name="", folder=tmp_path / "work"), run_id, kind=SCENES_KIND)
    clips = data.clips("train", device="my phone")
    assert data.devices == ("my phone", "recorder")
    assert clips[[0]].waveforms.shape == (1, 32000)
    file, mark, part = clips.filenames[1].partition("#t=")
    whole = torch.from_numpy(decode(own.parent / file, sample_rate=32000))
    assert (mark, part) == ("#t=", "1")
    assert torch.equal(clips[[1]].waveforms[0], whole[32000:64000])


def test_the_same_audio_in_training_and_test_is_an_error(
    environment: dict[str, str], tmp_path: Path, own: Path
) -> None:
    edit(own, split=["train"] * 4 + ["test"] * 2 + ["validation"] * 2)
    (own.parent / "sounds/4.wav").write_bytes((own.parent / "sounds/1.wav").read_bytes())
    with pytest.raises(
        DataError,
        match=r"the same audio is in two splits: sounds/1\.wav#t=0 \(train\) and sounds/4\.wav#t=0 \(test\)",
    ):
        run_prepare(environment, tmp_path, own)


def test_a_location_on_both_sides_of_the_validation_cut_is_an_error(
    environment: dict[str, str], tmp_path: Path, own: Path
) -> None:
    edit(own, split=["train"] * 4 + ["test"] * 2 + ["validation"] * 2, location=list("xbcdefgx"))
    with pytest.raises(
        DataError, match=r"location 'x' is on both sides of the validation cut: .*leave it on one side"
    ):
        run_prepare(environment, tmp_path, own)


def test_silent_files_are_found_and_are_no_leak(
    environment: dict[str, str], tmp_path: Path, own: Path
) -> None:
    edit(own, split=["train"] * 4 + ["test"] * 2 + ["validation"] * 2)
    for number in (0, 5, 7):
        noise(own.parent / f"sounds/{number}.wav", 1.0, seed=0, gain=0.0)
    run_id = run_prepare(environment, tmp_path, own)
    findings = pd.read_csv(artifact(run_id, "report/findings.csv"))
    assert findings[findings["finding"] == "silent"]["filename"].tolist() == [
        f"sounds/{number}.wav" for number in (0, 5, 7)
    ]
    assert mlflow.get_run(run_id).data.metrics["found/silent"] == 3


def test_a_wrong_length_is_an_error_where_all_clips_have_one(
    environment: dict[str, str], data: DataConfig, tmp_path: Path
) -> None:
    root = tmp_path / "tau"
    for path in Path(data.root).rglob("*"):
        target = root / path.relative_to(data.root)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    short, broken = "audio/airport-paris-0-0-0-a.wav", "audio/airport-paris-0-0-1-b.wav"
    noise(root / short, 0.5, seed=1)
    (root / broken).write_bytes(b"RIFF")
    with pytest.raises(DataError) as error:
        run_prepare(environment, tmp_path, root, scenes=("airport", "bus"))
    assert f"{short}: 0.500 s long, expected 1.000 s" in str(error.value)
    assert f"{broken}: not readable as audio (" in str(error.value)


@pytest.fixture
def audioset(tmp_path: Path) -> Path:
    """Ten videos of three seconds, one of them missing, one broken."""
    root = tmp_path / "audioset"
    lines = ["# Segments", "# a comment", "# YTID, start_seconds, end_seconds, positive_labels"]
    for number in range(10):
        lines.append(f'video{number:06d}, 30.000, 40.000, "/m/09x0r,/m/05zppz"')
        if number:
            noise(root / f"audio/video{number:06d}.wav", 3.0, seed=number)
    (root / "audio/video000001.wav").write_bytes(b"never finished")
    (root / "balanced_train_segments.csv").write_text("\n".join(lines) + "\n")
    return root


def test_audioset_counts_and_leaves_out_what_is_missing_or_broken(
    environment: dict[str, str], tmp_path: Path, audioset: Path
) -> None:
    run_id = run_prepare(environment, tmp_path, audioset, audioset_clip_seconds=2.0, validation_share=0.3)
    table = pd.read_parquet(artifact(run_id, "data/clips.parquet"))
    assert len(table) == 8
    findings = pd.read_csv(artifact(run_id, "report/findings.csv")).set_index("finding")["filename"]
    assert findings["missing"] == "video000000"
    assert findings["unreadable"].startswith("audio/video000001.wav: not readable as audio")
    assert len(json.loads(artifact(run_id, "data/dataset.json").read_text())["classes"]) == 527


def test_of_lists_to_pre_train_on_validation_clips_that_are_not_apart_are_left_out(
    environment: dict[str, str], tmp_path: Path
) -> None:
    root = write_cochlscene(tmp_path / "CochlScene")
    shutil.copy(next((root / "Train/Bus").iterdir()), root / "Val/Bus/Bus_user0009_14897259_000.wav")
    noise(root / "Val/Cafe/Cafe_user0000_14897250_007.wav", 2.0, seed=1)  # a recording that is trained on
    run_id = run_prepare(environment, tmp_path, root)
    assert mlflow.get_run(run_id).data.tags["adaptf.data"] == "scenes to pre-train on"
    table = pd.read_parquet(artifact(run_id, "data/clips.parquet"))
    assert table.groupby(["split", "scene"]).size().to_dict() == {
        (split, scene): 4 if split == "train" else 2
        for split in ("train", "validation", "test")
        for scene in ("Bus", "Cafe", "Park")
    }
    assert "4 validation clips left out whose audio" in artifact(run_id, "report/report.txt").read_text()


def test_a_training_sample_takes_as_many_seconds_of_an_audioset_clip_as_asked(
    environment: dict[str, str], tmp_path: Path, audioset: Path
) -> None:
    run_id = run_prepare(environment, tmp_path, audioset, audioset_clip_seconds=2.0, validation_share=0.3)
    with mlflow.start_run():
        data = load_prepared(
            StageRun(run_id="", name="", folder=tmp_path / "work"), run_id, kind=AUDIOSET_KIND
        )
    assert data.clips("train")[[0, 1]].waveforms.shape == (2, 32000)
    assert data.clips("train", sample_seconds=1.5)[[0, 1]].waveforms.shape == (2, 48000)
    assert data.clips("train").targets[0].nonzero()[0].tolist() == [0, 1]
    with pytest.raises(
        ValueError, match="clips of 96000 samples are asked for, the cache holds 64000 of each"
    ):
        data.clips("train", sample_seconds=3.0)


def test_pretraining_takes_samples_as_long_as_asked_and_ends_at_the_epoch_in_which_it_diverges(
    environment: dict[str, str], tmp_path: Path, audioset: Path
) -> None:
    config = PretrainConfig(
        prepare_run=run_prepare(
            environment, tmp_path, audioset, audioset_clip_seconds=2.0, validation_share=0.3
        ),
        sample_seconds=1.5,
        mel=MelConfig(bands=64),
        model=ModelConfig(width=8, depth=2),
        optim=OptimConfig(batch_size=4, max_epochs=1),
        trainer=TrainerConfig(accelerator="cpu", workers=0, progress_bar=False),
    )
    longer, shorter = execute(PRETRAIN, config), execute(PRETRAIN, replace(config, sample_seconds=1.0))
    assert scores(longer)["best/mean_average_precision"] > 0
    assert metric_per_epoch(longer, "train/loss") != metric_per_epoch(shorter, "train/loss")
    with pytest.raises(Diverged, match="diverged in epoch 1"):
        execute(PRETRAIN, replace(config, optim=replace(config.optim, lr=1e30, max_epochs=2)))


def test_a_cache_that_this_machine_lacks_is_made_again(
    environment: dict[str, str], tmp_path: Path, own: Path
) -> None:
    run_id = run_prepare(environment, tmp_path, own)
    (tmp_path / "cache").rename(tmp_path / "gone")
    run = StageRun(run_id="", name="", folder=tmp_path / "work")
    with mlflow.start_run():
        assert len(load_prepared(run, run_id, kind=SCENES_KIND).clips("train"))
        (tmp_path / "cache").rename(tmp_path / "gone too")
        noise(own.parent / "sounds/3.wav", 2.6, seed=99)
        with pytest.raises(
            DataError, match=r"the files in .* are not those that were prepared: run `prepare` again"
        ):
            load_prepared(replace(run, shared=SharedObjects()), run_id, kind=SCENES_KIND)


def test_more_than_the_challenge_allows_is_refused_with_its_rule(
    environment: dict[str, str], tmp_path: Path
) -> None:
    from adaptf.data.sets.published_lists import tau_split

    root = tmp_path / "tau"
    (root / "evaluation_setup").mkdir(parents=True)
    names = pd.concat([tau_split("50"), tau_split("test")])
    parts = names.str.removeprefix("audio/").str.removesuffix(".wav").str.split("-", expand=True)
    meta = {
        "filename": names,
        "scene_label": parts[0],
        "identifier": parts[1] + "-" + parts[2],
        "source_label": parts[5],
    }
    pd.DataFrame(meta).to_csv(root / "meta.csv", sep="\t", index=False)
    with pytest.raises(
        UserError, match=r"data\.train_split=50 breaks the rule of DCASE 2025 Task 1.*data\.challenge=false"
    ):
        run_prepare(environment, tmp_path, root, train_split="50")
    with pytest.raises(DataError, match="the file is missing"):
        run_prepare(environment, tmp_path, root, train_split="50", challenge=False)


def test_download_fetches_the_record_into_the_folder_before_it_is_read(
    environment: dict[str, str], data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetch(record: int, root: Path) -> None:
        fetched.append((record, root))
        shutil.copytree(data.root, root)

    monkeypatch.setattr(stage, "download_record", fetch)
    config = replace(data, root=str(tmp_path / "tau"), cache=str(tmp_path / "cache"))
    run_id = execute(PREPARE, PrepareConfig(config, download=True))
    assert fetched == [(6337421, tmp_path / "tau")]
    assert mlflow.get_run(run_id).data.metrics["clips/test"] == 12


def test_with_verify_all_files_are_read_whatever_a_mount_says_of_them(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (tmp_path / "sounds/0.wav").stat().st_size
    monkeypatch.setattr(hashes, "state_of", lambda path: (path, size, 0, 1, 0))
    data = DataConfig(root=str(own), cache=str(tmp_path / "cache"), workers=1, validation_share=0.25)
    before = stage.data_digest(PrepareConfig(data))
    noise(tmp_path / "sounds/0.wav", 2.6, seed=99)
    assert stage.data_digest(PrepareConfig(data)) == before
    after = stage.data_digest(PrepareConfig(replace(data, verify=True)))
    assert after != before
    assert stage.data_digest(PrepareConfig(data)) == after  # what was read is remembered
