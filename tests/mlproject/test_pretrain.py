"""Stage `pretrain`: on labels, on scenes, one after the other; and what may not be learnt before."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from fixtures.noise_data import write_cochlscene
from fixtures.stages import MEL, MODEL, TRAINER, TWO_EPOCHS

from adaptf.errors import UserError
from adaptf.mlproject import main as whole
from adaptf.mlproject.main import AudioSetConfig, MainConfig
from adaptf.mlproject.prepare import PREPARE, PrepareConfig
from adaptf.mlproject.pretrain import PRETRAIN, PretrainConfig
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.config import DataConfig
from adaptf.pipeline.lineage import as_text, tree
from adaptf.pipeline.stage import execute
from adaptf.tracking import runs, stage_run
from adaptf.tracking.stage_run import StageRun
from adaptf.training.losses import cross_entropy

CONFIG = PretrainConfig(mel=MEL, model=MODEL, optim=replace(TWO_EPOCHS, max_epochs=1), trainer=TRAINER)
Prepare = Callable[..., str]
Weights = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def prepare(data: DataConfig, prepared: str) -> Prepare:
    """Id of a `prepare` run of a folder or table, made after that of the scenes that it all is for."""

    def call(root: Path, **settings: Any) -> str:
        return execute(PREPARE, PrepareConfig(replace(data, root=str(root), scenes=(), **settings)))

    return call


@pytest.fixture(scope="module")
def labelled(folder: Path, prepare: Prepare) -> str:
    """Id of a `pretrain` run on eight videos of AudioSet."""
    root = folder / "audioset"
    root.mkdir()
    noise, lines = np.random.default_rng(2), []
    for number in range(8):
        lines.append(f'video{number:06d}, 0.000, 10.000, "/m/09x0r"')
        soundfile.write(root / f"video{number:06d}.wav", 0.1 * noise.standard_normal(32000), 32000)
    (root / "balanced_train_segments.csv").write_text("\n".join(lines))
    prepare(root, audioset_clip_seconds=1.0)
    return execute(PRETRAIN, CONFIG)


@pytest.fixture(scope="module")
def cochlscene(folder: Path, prepare: Prepare) -> str:
    return prepare(write_cochlscene(folder / "cochlscene"))


@pytest.fixture(scope="module")
def on_scenes(labelled: str, cochlscene: str) -> str:
    """Id of a `pretrain` run on CochlScene from the one on labels."""
    return execute(PRETRAIN, replace(CONFIG, prepare_run=cochlscene, pretrain_run="latest"))


def started_with(training: Any) -> dict[str, torch.Tensor]:
    """The weights with which a training would begin."""
    return {
        f"classifier.network.{name}": one
        for name, one in training.task.classifier.network.state_dict().items()
    }


def test_of_scenes_accuracy_is_the_score_and_of_labels_mean_average_precision(
    labelled: str, on_scenes: str
) -> None:
    assert set(runs.scores(labelled)) == {"best/mean_average_precision"}
    assert set(runs.scores(on_scenes)) == {"best/accuracy"}
    for run_id, words in (
        (labelled, "527 AudioSet labels. From scratch."),
        (on_scenes, f"3 scenes. From {labelled}:"),
    ):
        assert mlflow.get_run(run_id).data.tags["mlflow.note.content"].startswith(words)


def test_scenes_are_learnt_by_cross_entropy_from_clips_of_a_second(
    cochlscene: str, training_of: Callable[..., Any]
) -> None:
    training = training_of(PRETRAIN, replace(CONFIG, prepare_run=cochlscene, seed=1))
    assert (len(training.train), len(training.validation)) == (12, 6)
    batch = training.train[[0, 1, 2]]
    assert batch.waveforms.shape == (3, 32000)
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    found = training.task.loss(logits, batch.labels)["loss"]
    assert torch.equal(found, cross_entropy(logits, batch.labels.targets))


def test_each_training_of_a_chain_starts_with_all_weights_of_the_one_before_but_its_last_layers(
    labelled: str,
    on_scenes: str,
    cochlscene: str,
    train_config: TrainConfig,
    checkpoint: Weights,
    training_of: Callable[..., Any],
) -> None:
    second = replace(CONFIG, prepare_run=cochlscene, pretrain_run=labelled, seed=1)
    third = replace(train_config, pretrain_run="latest")
    for stage, config, before in ((PRETRAIN, second, labelled), (TRAIN, third, on_scenes)):
        begun, left = started_with(training_of(stage, config)), checkpoint(before)
        shared = {name for name in left if ".classifier." not in name}
        assert len(shared) > 20
        assert all(torch.equal(begun[name], left[name]) for name in shared)


def test_a_model_of_a_chain_shows_all_of_it(
    labelled: str, on_scenes: str, cochlscene: str, train_config: TrainConfig
) -> None:
    trained = execute(TRAIN, replace(train_config, pretrain_run=on_scenes, optim=CONFIG.optim))
    lines = as_text("", tree(trained))
    order = [trained, on_scenes, labelled, "best/mean_average_precision"]
    assert [lines.index(one) for one in order] == sorted(lines.index(one) for one in order)
    (of_scenes,) = [line for line in lines.splitlines() if on_scenes in line]
    assert "best/accuracy" in of_scenes


def test_latest_means_the_scenes_that_it_all_is_for_and_the_labels(
    prepared: str, cochlscene: str, labelled: str, train_config: TrainConfig, training_of: Callable[..., Any]
) -> None:
    training = training_of(TRAIN, replace(train_config, prepare_run="latest", seed=3))
    assert training.task.classifier.description.classes == ("airport", "bus")
    training = training_of(PRETRAIN, replace(CONFIG, seed=3))
    assert len(training.task.classifier.description.classes) == 527


@pytest.fixture(scope="module")
def copies(folder: Path, data: DataConfig, prepare: Prepare) -> str:
    """Id of a `pretrain` run on the scenes' test clips under other names, among others."""
    listed = pd.read_csv(Path(data.root) / "evaluation_setup/fold1_evaluate.csv", sep="\t")
    rows = listed.assign(scene=listed["scene_label"], device="phone", split="train")
    rows.loc[::3, "split"] = "validation"
    root = folder / "copies"
    root.mkdir()
    for place, name in enumerate(rows["filename"]):
        (root / f"{place}.wav").write_bytes((Path(data.root) / name).read_bytes())
    rows.assign(filename=[f"{place}.wav" for place in range(len(rows))]).to_csv(
        root / "clips.csv", index=False
    )
    return execute(PRETRAIN, replace(CONFIG, prepare_run=prepare(root / "clips.csv", test_share=0.0)))


def test_clips_that_test_here_may_not_be_learnt_before_under_whatever_name(
    copies: str, cochlscene: str, train_config: TrainConfig
) -> None:
    between = execute(PRETRAIN, replace(CONFIG, prepare_run=cochlscene, pretrain_run=copies))
    for pretrain_run in (copies, between):
        with pytest.raises(
            UserError,
            match=f"12 clips that judge here, such as audio/airport-paris-4.*, were learnt in run {copies}",
        ):
            execute(TRAIN, replace(train_config, pretrain_run=pretrain_run))


def test_where_the_table_of_what_was_learnt_is_gone_the_training_says_so_and_goes_on(
    on_scenes: str,
    train_config: TrainConfig,
    training_of: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    download = stage_run.download

    def gone(run_id: str, artifact: str, folder: Path) -> Path:
        if artifact == "data" and run_id != train_config.prepare_run:
            raise runs.UpstreamError(f"run {run_id} has no artifact 'data'")
        return download(run_id, artifact, folder)

    monkeypatch.setattr(stage_run, "download", gone)
    training_of(TRAIN, replace(train_config, pretrain_run=on_scenes, seed=4))
    assert (
        f"Whether clips that judge here were learnt in {on_scenes} can't be told: run"
        in capsys.readouterr().out
    )


def test_main_trains_from_what_was_pre_trained_before(
    on_scenes: str, prepared: str, data: DataConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def execute(stage: Any, settings: Any, **others: Any) -> str:
        asked[stage.name] = settings
        if stage is TRAIN:
            raise KeyboardInterrupt
        return prepared

    monkeypatch.setattr(whole, "execute", execute)
    with mlflow.start_run(), pytest.raises(KeyboardInterrupt):
        whole.main(MainConfig(data=data, pretrain_run=on_scenes), StageRun("", "", folder))
    assert list(asked) == ["prepare", "train"]
    assert asked["train"].pretrain_run == on_scenes


def test_main_pre_trains_on_audioset_or_takes_what_was_and_says_how_to_do_both(tmp_path: Path) -> None:
    scenes = str(write_cochlscene(tmp_path / "CochlScene", scenes=("Bus",), seconds=0.01))
    wrong = {
        "audioset.root is .*/CochlScene, where there is no AudioSet .*. To pre-train on scenes": MainConfig(
            audioset=AudioSetConfig(scenes)
        ),
        "audioset.root is .*, pretrain_run is 0123: give one of them": MainConfig(
            audioset=AudioSetConfig(scenes), pretrain_run="0123"
        ),
        "main gives every stage the runs of those before it: leave out pretrain.pretrain_run": MainConfig(
            pretrain=replace(CONFIG, pretrain_run="0123")
        ),
    }
    for said, config in wrong.items():
        with pytest.raises(UserError, match=said):
            whole.check(config)
