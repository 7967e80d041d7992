"""Stages over folds: a run per fold, and what their parent makes of them."""

from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from adaptf.data.clips import TEST, VALIDATION
from adaptf.data.clips import TRAIN as TRAINING
from adaptf.data.errors import DataError
from adaptf.data.parquet import read_table
from adaptf.data.teacher_logits import read_teacher_logits
from adaptf.errors import UserError
from adaptf.mlproject import main as main_module
from adaptf.mlproject.compare import COMPARE, CompareConfig
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.main import MAIN, MainConfig, data_of
from adaptf.mlproject.prepare import PREPARE, PrepareConfig
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.config import DataConfig
from adaptf.pipeline.dataset import look_at_prepared
from adaptf.pipeline.stage import execute
from adaptf.pipeline.taught import calibrated
from adaptf.pipeline.taught import taught as with_teachers
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.tracking import runs
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import UpstreamError
from adaptf.tracking.several import FOLDS, SEEDS
from adaptf.tracking.stage_run import StageRun

pytestmark = pytest.mark.slow
FOLDED = {"folds": 2, "split_seed": 1}


@pytest.fixture(scope="module")
def folded(prepared: str, data: DataConfig) -> str:
    return execute(PREPARE, PrepareConfig(replace(data, **FOLDED)))


@pytest.fixture(scope="module")
def trained(train_config: TrainConfig, folded: str) -> str:
    config = replace(train_config, prepare_run=folded, optim=replace(train_config.optim, max_epochs=1))
    return execute(TRAIN, config)


@pytest.fixture(scope="module")
def taught(teacher_config: TeacherConfig, folded: str) -> str:
    return execute(TEACHER, replace(teacher_config, prepare_run=folded))


def children_of(run_id: str) -> dict[int, str]:
    return FOLDS.children(mlflow.get_run(run_id))


def artifact(run_id: str, path: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path))


def clips_of(prepare_run: str) -> pd.DataFrame:
    return read_table(artifact(prepare_run, "data/clips.parquet")).set_index("filename")


def test_each_clip_validates_in_one_fold_and_test_clips_in_none(folded: str, prepared: str) -> None:
    splits = pd.DataFrame({fold: clips_of(run_id)["split"] for fold, run_id in children_of(folded).items()})
    tested = clips_of(prepared)["split"] == TEST
    assert list(splits) == [1, 2]
    assert ((splits == VALIDATION).sum(axis=1) == ~tested).all() and (splits[tested] == TEST).all(axis=None)


def test_a_training_over_folds_has_a_run_per_fold_with_mean_and_interval(trained: str, folded: str) -> None:
    data_of_folds = children_of(folded)
    found = {fold: mlflow.get_run(run_id) for fold, run_id in children_of(trained).items()}
    assert {fold: run.info.run_name for fold, run in found.items()} == {1: "train fold 1", 2: "train fold 2"}
    assert {
        fold: run.data.tags["adaptf.upstream.prepare_run"] for fold, run in found.items()
    } == data_of_folds
    parent = mlflow.get_run(trained)
    assert (parent.info.run_name, parent.data.tags["adaptf.stage"]) == (
        "train DIR=0.5 lr=0.01, 2 folds",
        "train_folds",
    )
    scores = [run.data.metrics["best/accuracy"] for run in found.values()]
    assert parent.data.metrics["best/accuracy/mean"] == pytest.approx(np.mean(scores))
    table = pd.read_csv(artifact(trained, "folds.csv"), index_col="score").loc["best/accuracy"]
    assert table["low"] <= table["mean"] <= table["high"] and table["fold 2"] == pytest.approx(scores[1])


def test_each_clip_is_judged_by_the_model_that_has_not_learnt_from_its_place(
    trained: str, folded: str
) -> None:
    pooled = read_table(artifact(trained, "validation/trained.parquet"))
    parts = [
        read_table(artifact(run_id, "validation/trained.parquet")) for run_id in children_of(trained).values()
    ]
    pd.testing.assert_frame_equal(pooled, pd.concat(parts, ignore_index=True))
    learning = clips_of(children_of(folded)[1])["split"] != TEST
    assert sorted(pooled["filename"]) == sorted(learning.index[learning])
    metrics = mlflow.get_run(trained).data.metrics
    by_device = [metrics[f"best/accuracy/{device}"] for device in "abc"]
    assert metrics["best/accuracy"] == pytest.approx(np.mean(by_device))


def test_latest_never_means_the_run_of_one_fold(trained: str, prepared: str) -> None:
    assert runs.latest("prepare", {}) == prepared
    with pytest.raises(UpstreamError, match="no run of stage 'train' has finished"):
        runs.latest("train", {})


def test_a_stage_over_folds_builds_on_the_runs_of_the_same_fold(
    distill_config: DistillConfig, trained: str, taught: str, folded: str
) -> None:
    config = replace(distill_config, prepare_run=folded, train_run=trained, teacher_runs=taught)
    run_id = execute(DISTILL, config)
    tags = {fold: mlflow.get_run(child).data.tags for fold, child in children_of(run_id).items()}
    for field, parent in {"prepare_run": folded, "train_run": trained, "teacher_runs": taught}.items():
        assert {fold: one[f"adaptf.upstream.{field}"] for fold, one in tags.items()} == children_of(parent)
    assert len(read_table(artifact(run_id, "validation/teachers.parquet"))) == 24


def test_the_teachers_of_the_folds_teach_a_student_of_another_split_by_clips_they_have_not_learnt(
    distill_config: DistillConfig, trained: str, taught: str
) -> None:
    table = read_teacher_logits(artifact(taught, "logits"))
    for child in children_of(taught).values():
        own = read_table(artifact(child, "validation/small_cnn.parquet"))
        logits = table.of(own["filename"], classes=table.classes, data_digest=table.data_digest)
        np.testing.assert_array_equal(logits, own[list(table.classes)].to_numpy(np.float32))
    start = str(artifact(children_of(trained)[1], "checkpoints/best.ckpt"))
    run_id = execute(DISTILL, replace(distill_config, train_run=start, teacher_runs=taught))
    assert mlflow.get_run(run_id).data.tags["adaptf.upstream.teacher_runs"] == taught
    assert "Teachers: ssl (small_cnn)" in mlflow.get_run(run_id).data.tags["mlflow.note.content"]


def test_the_teachers_of_the_folds_are_put_on_one_scale_as_all_others(
    taught: str, prepared: str, tmp_path: Path
) -> None:
    data = look_at_prepared(StageRun("", "", tmp_path), prepared, kind="scenes")
    table = read_teacher_logits(artifact(taught, "logits"))
    right = data.table.set_index("filename")["scene"].map(data.classes.index).reindex(table.filenames)
    held = set(data.table.loc[data.table["split"] == VALIDATION, "filename"])
    wrong = next(row for row, name in enumerate(table.filenames) if name in held)
    said = np.eye(2, dtype=np.float32)[right.to_numpy()]
    said[wrong] = 1 - said[wrong]
    sure = replace(table, logits=10 * said)
    expected = calibrated(replace(sure, data_digest=data.digest), data).logits
    np.testing.assert_array_equal(calibrated(sure, data).logits, expected)
    assert expected.max() < 10


def test_logits_over_folds_are_refused_for_a_student_whose_test_clips_were_learnt(
    taught: str, prepared: str, tmp_path: Path
) -> None:
    run = StageRun("", "", tmp_path)
    data = look_at_prepared(run, prepared, kind="scenes")
    table = read_teacher_logits(artifact(taught, "logits"))
    assert with_teachers(data.clips(TRAINING), [table], data).teacher_logits.shape == (18, 1, 2)
    other = replace(data, table=data.table.assign(split=TRAINING))
    with pytest.raises(DataError, match="belong to other data"):
        with_teachers(other.clips(TRAINING), [table], other)


def test_seeds_go_over_folds(train_config: TrainConfig, folded: str, trained: str) -> None:
    optim = replace(train_config.optim, max_epochs=1)
    run_id = execute(TRAIN, replace(train_config, prepare_run=folded, optim=optim, seeds=(0,)))
    assert SEEDS.children(mlflow.get_run(run_id)) == {0: trained}


def test_a_run_over_folds_is_refused_where_one_is_needed(
    distill_config: DistillConfig, train_config: TrainConfig, folded: str, trained: str, taught: str
) -> None:
    with pytest.raises(UpstreamError, match=f"is of stage 'train_folds'.*fold 2: {children_of(trained)[2]}"):
        execute(DISTILL, replace(distill_config, train_run=trained, teacher_runs=taught))
    with pytest.raises(
        UserError, match=f"compare takes the data of one fold: name one of the runs below {folded}"
    ):
        execute(COMPARE, CompareConfig(runs=",".join(children_of(trained).values()), prepare_run=folded))
    with pytest.raises(UserError, match="refit and folds don't go together"):
        execute(TRAIN, replace(train_config, prepare_run=folded, refit=True))


def test_main_over_folds_runs_once_per_fold_deploys_nothing_and_shows_one_table(
    environment: dict[str, str], data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = MainConfig(data=replace(data, **FOLDED))
    children: list[MainConfig] = []

    def one(child: MainConfig, run: StageRun) -> Result:
        children.append(child)
        return Result()

    stage = replace(MAIN, run=one, folds=replace(MAIN.folds, result=lambda *_: Result()))
    execute(stage, config)
    assert [(child.data.fold, child.deploy, child.quantize.refuse) for child in children] == [
        (1, False, False),
        (2, False, False),
    ]
    assert data_of(config, "audioset").data.folds == 0 and data_of(config, data.root).data.folds == 2


@pytest.mark.parametrize("changes", [{"seeds": (0, 1)}, {"repeat": True}, {"train": TrainConfig(refit=True)}])
def test_main_says_before_any_work_what_folds_do_not_go_with(data: DataConfig, changes: dict) -> None:
    config = MainConfig(data=replace(data, **FOLDED), **changes)
    with pytest.raises(UserError, match="folds"):
        main_module.check(config)


@pytest.mark.parametrize(
    ("settings", "told"), [({"fold": 3, "folds": 2}, "from 1 to data.folds, which is 2")]
)
def test_a_fold_that_there_is_not_is_refused(settings: dict[str, int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        DataConfig(**settings)
