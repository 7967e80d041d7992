"""prepare, train, teacher and distill, in their order, on a tiny data set; reuse and resuming."""

import json
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
from mlflow.entities import Run

from adaptf.errors import UserError
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.prepare import PREPARE, PrepareConfig
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.config import DataConfig
from adaptf.pipeline.stage import Stage, execute
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.tracking import runs
from adaptf.tracking.logged_models import models_of
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import UpstreamError
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import FINGERPRINT, STAGE
from adaptf.tracking.work_folder import work_root
from adaptf.training.metrics import MacroAccuracy
from adaptf.training.task import ClassifierTask

Checkpoint = Callable[..., dict[str, torch.Tensor]]

LEFT_BY_A_TRAINING = {"config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt"}


@pytest.fixture(scope="module")
def trained(train_config: TrainConfig) -> str:
    return execute(TRAIN, train_config)


@pytest.fixture(scope="module")
def taught(teacher_config: TeacherConfig) -> str:
    return execute(TEACHER, teacher_config)


@pytest.fixture(scope="module")
def distilled(distill_config: DistillConfig, trained: str, taught: str) -> str:
    return execute(DISTILL, replace(distill_config, train_run=trained, teacher_runs=taught))


@pytest.fixture
def forbidden_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any training step fails."""

    def fail(*arguments: Any) -> None:
        raise AssertionError("the stage was run again")

    monkeypatch.setattr(ClassifierTask, "training_step", fail)


@pytest.fixture
def score_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """No epoch is better than the first."""
    monkeypatch.setattr(MacroAccuracy, "compute", lambda metric: torch.tensor(0.5))


def artifacts(run_id: str, folder: str = "") -> set[str]:
    found = mlflow.MlflowClient().list_artifacts(run_id, folder)
    files = {entry.path for entry in found if not entry.is_dir}
    return files.union(*(artifacts(run_id, entry.path) for entry in found if entry.is_dir))


def epochs_logged(run_id: str, metric: str) -> list[float]:
    return [entry.value for entry in mlflow.MlflowClient().get_metric_history(run_id, metric)]


def work_left(folder: Path, run: Run) -> bool:
    name = f"{run.data.tags[STAGE]}-{run.data.tags[FINGERPRINT][:16]}"
    return (folder / "work" / name).exists()


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(
        float((one[name].double() - other[name].double()).abs().max()) for name in one if one[name].numel()
    )


def stage_that_counts(config: TrainConfig, run: StageRun) -> Result:
    """Stands in for a stage where only its bookkeeping matters."""
    print("counted")
    return Result()


COUNTING = Stage("stage_that_counts", run=stage_that_counts, config=TrainConfig)


def test_prepare_leaves_the_table_and_the_counts(prepared: str, folder: Path) -> None:
    run = mlflow.get_run(prepared)
    report = {f"report/{name}" for name in ("report.txt", "findings.csv", "clips.png", "log_mels.png")}
    assert artifacts(prepared) == {"config.yaml", "data/clips.parquet", "data/dataset.json", *report}
    assert run.data.metrics["clips/test"] == 12
    assert run.data.metrics["clips/train"] + run.data.metrics["clips/validation"] == 24
    assert run.data.tags[STAGE] == "prepare" and run.data.tags["adaptf.data"] == "scenes"
    stored = json.loads(
        Path(
            mlflow.artifacts.download_artifacts(run_id=prepared, artifact_path="data/dataset.json")
        ).read_text()
    )
    assert (stored["classes"], stored["devices"]) == (["airport", "bus"], ["a", "b", "c"])
    assert not work_left(folder, run)


def test_train_leaves_checkpoints_metrics_and_its_configuration(trained: str, folder: Path) -> None:
    run = mlflow.get_run(trained)
    assert artifacts(trained) == {*LEFT_BY_A_TRAINING, "validation/trained.parquet"}
    assert (
        run.info.status == "FINISHED"
        and run.data.tags[STAGE] == "train"
        and run.info.run_name == "train DIR=0.5 lr=0.01"
    )
    assert run.data.params["optim.lr"] == "0.01" and run.data.params["model.width"] == "8"
    accuracies = epochs_logged(trained, "val/accuracy")
    assert len(accuracies) == len(epochs_logged(trained, "train/loss")) == 2
    assert run.data.metrics["best/accuracy"] == pytest.approx(max(accuracies))
    assert "From scratch." in run.data.tags["mlflow.note.content"]
    assert not work_left(folder, run)


def test_the_small_teacher_is_called_what_it_is_and_predicts_the_learning_clips(
    taught: str, prepared: str
) -> None:
    run = mlflow.get_run(taught)
    assert run.data.tags["adaptf.teacher"] == "ssl" and run.data.tags["adaptf.teacher_model"] == "small_cnn"
    assert "No BEATs file" in run.data.tags["mlflow.note.content"]
    logits = pd.read_parquet(
        mlflow.artifacts.download_artifacts(run_id=taught, artifact_path="logits/logits.parquet")
    )
    clips = pd.read_parquet(
        mlflow.artifacts.download_artifacts(run_id=prepared, artifact_path="data/clips.parquet")
    )
    assert set(logits["filename"]) == set(clips[clips["split"] != "test"]["filename"])


def test_distill_starts_from_the_trained_network_and_names_the_teacher(distilled: str, taught: str) -> None:
    run = mlflow.get_run(distilled)
    predictions = {f"validation/{setting}.parquet" for setting in ("teachers", "distilled")}
    assert artifacts(distilled) == LEFT_BY_A_TRAINING | predictions
    assert run.data.params["teacher_runs"] == taught
    assert "ssl (small_cnn)" in run.data.tags["mlflow.note.content"]


def test_a_cp_resnet_teaches_a_student(
    trained: str, teacher_config: TeacherConfig, distill_config: DistillConfig
) -> None:
    taught = execute(TEACHER, replace(teacher_config, kind="cp_resnet", settings={"rho": 2}))
    assert "cp_resnet, trained from scratch." in mlflow.get_run(taught).data.tags["mlflow.note.content"]
    distilled = execute(DISTILL, replace(distill_config, train_run=trained, teacher_runs=taught))
    assert "cp_resnet (cp_resnet)" in mlflow.get_run(distilled).data.tags["mlflow.note.content"]


def test_a_student_learns_in_training_mode(distilled: str, trained: str, checkpoint: Checkpoint) -> None:
    before, after = checkpoint(trained), checkpoint(distilled)
    statistics = [name for name in before if "classifier.network" in name and name.endswith("running_mean")]
    assert statistics and all(not torch.equal(before[name], after[name]) for name in statistics)
    counts = [name for name in before if name.endswith("num_batches_tracked")]
    assert all(after[name] > before[name] for name in counts)


def test_latest_is_the_newest_finished_run(train_config: TrainConfig, trained: str, prepared: str) -> None:
    older = execute(COUNTING, train_config)
    newer = execute(COUNTING, replace(train_config, seed=1))
    assert runs.latest("stage_that_counts", {}) == newer != older
    mlflow.MlflowClient().set_terminated(newer, "FAILED")
    assert runs.latest("stage_that_counts", {}) == older
    config = replace(train_config, prepare_run="latest")
    assert mlflow.get_run(execute(COUNTING, config)).data.params["prepare_run"] == prepared


def test_latest_without_any_finished_run_says_how_to_make_one(train_config: TrainConfig) -> None:
    with pytest.raises(
        UpstreamError, match=r"no run of stage 'pretrain' has finished.*mlflow run . -e pretrain"
    ):
        execute(TRAIN, replace(train_config, pretrain_run="latest"))


def test_the_same_work_is_taken_from_the_run_that_did_it(
    train_config: TrainConfig, trained: str, forbidden_steps: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(TRAIN, train_config, reuse=True) == trained
    assert f"already finished in run {trained}" in capsys.readouterr().out


def test_an_upstream_run_that_was_made_alike_counts_as_the_same(
    train_config: TrainConfig, trained: str, data: DataConfig, forbidden_steps: None
) -> None:
    again = execute(PREPARE, PrepareConfig(data))
    assert again != train_config.prepare_run
    assert execute(TRAIN, replace(train_config, prepare_run=again), reuse=True) == trained


def test_a_changed_setting_or_upstream_runs_again(
    train_config: TrainConfig, data: DataConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(train_config, seed=11)
    first = execute(COUNTING, config, reuse=True)
    assert execute(COUNTING, config, reuse=True) == first
    other_setting = execute(COUNTING, replace(config, seed=12), reuse=True)
    other_data = execute(PREPARE, PrepareConfig(replace(data, validation_share=0.5)))
    other_upstream = execute(COUNTING, replace(config, prepare_run=other_data), reuse=True)
    assert len({first, other_setting, other_upstream}) == 3
    assert capsys.readouterr().out.count("counted") == 3


def test_what_cannot_change_a_result_makes_no_other_run(train_config: TrainConfig) -> None:
    config = replace(train_config, seed=13)
    elsewhere = replace(
        train_config.trainer, workers=1, accelerator="auto", progress_bar=True, log_mel_gb=0.0
    )
    assert execute(COUNTING, config, reuse=True) == execute(
        COUNTING, replace(config, trainer=elsewhere), reuse=True
    )
    longer = replace(train_config.trainer, accumulate_batches=2)
    assert execute(COUNTING, config, reuse=True) != execute(
        COUNTING, replace(config, trainer=longer), reuse=True
    )


def test_what_a_stage_cannot_tell_is_never_taken_from_an_earlier_run(train_config: TrainConfig) -> None:
    stage = replace(COUNTING, reads=lambda config: None)
    assert execute(stage, train_config, reuse=True) != execute(stage, train_config, reuse=True)


def test_settings_are_refused_before_there_is_a_run(train_config: TrainConfig) -> None:
    def refuse(config: TrainConfig) -> None:
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        execute(replace(COUNTING, name="refused", check=refuse), train_config)
    assert not runs.any_finished("refused") and not list(work_root().glob("refused*"))


@pytest.mark.parametrize("name", ["microphone.wav", "old/microphone.wav"])
def test_another_response_in_the_same_folder_trains_again(
    train_config: TrainConfig, tmp_path: Path, name: str
) -> None:
    (tmp_path / "old").mkdir()
    soundfile.write(tmp_path / name, np.eye(1, 64, 3)[0], 32000)
    config = replace(train_config, seed=51, augment=replace(train_config.augment, dir_folder=str(tmp_path)))
    first = execute(COUNTING, config, reuse=True)
    (tmp_path / ".DS_Store").write_bytes(b"what a file manager leaves")
    assert execute(COUNTING, config, reuse=True) == first
    soundfile.write(tmp_path / name, np.eye(1, 64, 5)[0], 32000)
    assert execute(COUNTING, config, reuse=True) != first


def test_a_file_that_changed_prepares_again(data: DataConfig, prepared: str) -> None:
    config = PrepareConfig(replace(data, split_seed=5))
    first = execute(PREPARE, config, reuse=True)
    assert execute(PREPARE, config, reuse=True) == first
    clip = next(Path(data.root).glob("audio/*.wav"))
    content = clip.read_bytes()
    try:
        clip.write_bytes(content[:-2] + b"\x01\x02")
        assert execute(PREPARE, config, reuse=True) != first
    finally:
        clip.write_bytes(content)


def test_a_run_of_another_stage_is_refused(distill_config: DistillConfig, trained: str, taught: str) -> None:
    with pytest.raises(
        UpstreamError, match=f"run {taught} is of stage 'teacher', a run of 'train' is needed"
    ):
        execute(DISTILL, replace(distill_config, train_run=taught, teacher_runs=taught))


def test_an_unfinished_run_is_refused(distill_config: DistillConfig, taught: str) -> None:
    run = mlflow.MlflowClient().create_run(runs.experiment_id(), tags={STAGE: "train"})
    with pytest.raises(
        UpstreamError, match=f"run {run.info.run_id} of stage 'train' has not finished: its status is RUNNING"
    ):
        execute(DISTILL, replace(distill_config, train_run=run.info.run_id, teacher_runs=taught))


def test_an_unknown_run_is_refused(distill_config: DistillConfig, taught: str) -> None:
    with pytest.raises(UpstreamError, match="there is no run '0123abcd'"):
        execute(DISTILL, replace(distill_config, train_run="0123abcd", teacher_runs=taught))


def test_the_same_seed_gives_the_same_weights(
    train_config: TrainConfig, trained: str, checkpoint: Checkpoint
) -> None:
    torch.rand(3)  # what was drawn before does not matter
    again = execute(TRAIN, train_config)
    assert again != trained
    assert largest_difference(checkpoint(trained), checkpoint(again)) == 0
    assert largest_difference(checkpoint(trained, "last"), checkpoint(again, "last")) == 0


def test_another_seed_gives_other_weights(
    train_config: TrainConfig, trained: str, checkpoint: Checkpoint
) -> None:
    other = execute(TRAIN, replace(train_config, seed=1))
    assert largest_difference(checkpoint(trained, "last"), checkpoint(other, "last")) > 0


def test_an_augmentation_beyond_the_report_makes_another_model_once_it_is_on(
    train_config: TrainConfig, trained: str, checkpoint: Checkpoint
) -> None:
    run_id = execute(TRAIN, replace(train_config, augment=replace(train_config.augment, spec_mask_share=0.2)))
    assert largest_difference(checkpoint(trained, "last"), checkpoint(run_id, "last")) > 0


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("augment", {"spec_mask_share": 1.5}, "augment.spec_mask_share is 1.5: it should be"),
        ("optim", {"restart_factor": 0}, "optim.restart_factor is 0: it should be"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_section(
    section: str, changes: dict[str, Any], message: str, train_config: TrainConfig, forbidden_steps: None
) -> None:
    with pytest.raises(UserError, match=message):
        execute(TRAIN, replace(train_config, **{section: replace(getattr(train_config, section), **changes)}))


def test_last_is_the_last_epoch_also_where_the_score_no_longer_rises(
    train_config: TrainConfig, score_stays: None
) -> None:
    run_id = execute(TRAIN, replace(train_config, seed=31))
    epochs = {}
    for name in ("best", "last"):
        path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=f"checkpoints/{name}.ckpt")
        epochs[name] = torch.load(path, weights_only=True)["epoch"]
    assert epochs == {"best": 0, "last": 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_training_continues_in_its_run_and_ends_alike(
    workers: int,
    train_config: TrainConfig,
    checkpoint: Checkpoint,
    score_stays: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    optim = replace(train_config.optim, max_epochs=4, restart_epochs=4, batch_size=8)
    config = replace(
        train_config, seed=21 + workers, optim=optim, trainer=replace(train_config.trainer, workers=workers)
    )
    whole = execute(TRAIN, config)
    with monkeypatch.context() as patch:
        patch.setattr(ClassifierTask, "training_step", fails_in_epoch(2, ClassifierTask.training_step))
        with pytest.raises(RuntimeError, match="power cut"):
            execute(TRAIN, config)
    broken = runs.find_interrupted("train", mlflow.get_run(whole).data.tags[FINGERPRINT])
    assert broken is not None and broken.info.status == "FAILED"
    assert "power cut" in mlflow.artifacts.load_text(f"{broken.info.artifact_uri}/error.txt")
    mlflow.MlflowClient().delete_run(whole)  # so that reuse does not find it
    capsys.readouterr()
    resumed = execute(TRAIN, config, reuse=True)
    said = capsys.readouterr().out
    mlflow.MlflowClient().restore_run(whole)
    assert resumed == broken.info.run_id and f"continues run {resumed}" in said
    assert [f"epoch {epoch}/4" in said for epoch in (1, 2, 3, 4)] == [False, False, True, True]
    assert mlflow.get_run(resumed).info.status == "FINISHED"
    assert epochs_logged(resumed, "train/loss") == epochs_logged(whole, "train/loss")
    assert largest_difference(checkpoint(whole, "last"), checkpoint(resumed, "last")) == 0
    assert largest_difference(checkpoint(whole), checkpoint(resumed)) == 0
    assert (
        mlflow.get_run(resumed).data.metrics["best/accuracy"]
        == mlflow.get_run(whole).data.metrics["best/accuracy"]
    )
    assert len(list(models_of(mlflow.get_run(resumed)))) == 1


def test_a_stage_joins_the_run_that_mlflow_made_for_it(
    train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = mlflow.MlflowClient().create_run(runs.experiment_id()).info.run_id
    mlflow.MlflowClient().log_param(made, "pretrain_run", "latest")  # as it was given to `mlflow run`
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    assert execute(COUNTING, replace(train_config, seed=41)) == made
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)  # MLflow takes it away itself once the run has begun
    run = mlflow.get_run(made)
    assert (run.info.status, run.data.tags[STAGE]) == ("FINISHED", "stage_that_counts")
    assert (run.data.params["pretrain_run"], run.data.params["seed"]) == ("latest", "41")


def test_a_stage_within_a_run_is_nested(train_config: TrainConfig) -> None:
    with mlflow.start_run(experiment_id=runs.experiment_id()) as parent:
        child = execute(COUNTING, replace(train_config, seed=42), name="a name")
    tags = mlflow.get_run(child).data.tags
    assert (tags["mlflow.parentRunId"], tags["mlflow.runName"]) == (parent.info.run_id, "a name")


def test_the_same_work_is_not_done_twice_at_once(train_config: TrainConfig) -> None:
    def stage_within_itself(config: TrainConfig, run: StageRun) -> Result:
        execute(stage, config)
        return Result()

    stage = Stage("stage_within_itself", run=stage_within_itself, config=TrainConfig)

    with pytest.raises(
        UserError, match="another process is running this stage_within_itself with the same settings"
    ):
        execute(stage, train_config)


def fails_in_epoch(epoch: int, step: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A training step that fails at the second batch of an epoch."""

    def training_step(task: ClassifierTask, batch: Any, batch_index: int) -> torch.Tensor:
        if task.current_epoch == epoch and batch_index == 1:
            raise RuntimeError("power cut")
        return step(task, batch, batch_index)

    return training_step
