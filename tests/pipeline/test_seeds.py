"""Stages over several seeds, and the comparison of runs."""

from dataclasses import replace

import mlflow
import pandas as pd
import pytest

from adaptf.errors import UserError
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.mlproject.evaluate import EVALUATE, EvaluateConfig
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.stage import execute
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.tracking import runs, several
from adaptf.tracking.runs import UpstreamError

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def trained(train_config: TrainConfig) -> str:
    return execute(TRAIN, replace(train_config, seeds=SEEDS))


@pytest.fixture(scope="module")
def distilled(distill_config: DistillConfig, teacher_config: TeacherConfig, trained: str) -> str:
    taught = execute(TEACHER, teacher_config)
    return execute(DISTILL, replace(distill_config, train_run=trained, teacher_runs=taught, seeds=SEEDS))


def children_of(run_id: str) -> dict[int, str]:
    return several.SEEDS.children(mlflow.get_run(run_id))


def tables_of(run_id: str, name: str) -> pd.DataFrame:
    path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=f"tables/{name}.csv")
    return pd.read_csv(path, index_col=0)


def test_each_seed_is_a_child_run(trained: str) -> None:
    children = children_of(trained)
    assert tuple(children) == SEEDS
    for seed, run_id in children.items():
        run = mlflow.get_run(run_id)
        assert (run.data.params["seed"], run.info.run_name) == (str(seed), f"train seed {seed}")
        assert run.data.tags["mlflow.parentRunId"] == trained


def test_the_parent_has_mean_and_deviation_of_the_children(trained: str) -> None:
    scores = pd.Series([runs.scores(run_id)["best/accuracy"] for run_id in children_of(trained).values()])
    metrics = mlflow.get_run(trained).data.metrics
    assert metrics["best/accuracy/mean"] == pytest.approx(scores.mean())
    assert metrics["best/accuracy/std"] == pytest.approx(scores.std())
    assert "best/accuracy" in mlflow.get_run(trained).data.tags["mlflow.note.content"]
    table = pd.read_csv(
        mlflow.artifacts.download_artifacts(run_id=trained, artifact_path="seeds.csv"), index_col="score"
    )
    assert list(table.filter(like="seed ").loc["best/accuracy"]) == pytest.approx(list(scores))


def test_a_stage_over_seeds_builds_on_the_runs_with_the_same_seeds(trained: str, distilled: str) -> None:
    taken = {
        seed: mlflow.get_run(run_id).data.tags["adaptf.upstream.train_run"]
        for seed, run_id in children_of(distilled).items()
    }
    assert taken == children_of(trained)


def test_a_seed_that_upstream_lacks_is_named(
    distill_config: DistillConfig, trained: str, distilled: str
) -> None:
    taught = mlflow.get_run(distilled).data.tags["adaptf.upstream.teacher_runs"]
    config = replace(distill_config, train_run=trained, teacher_runs=taught, seeds=(0, 9))
    with pytest.raises(UpstreamError, match=f"run {trained} holds the seeds 0, 1, 2, seed 9 is needed"):
        execute(DISTILL, config)


def test_a_single_run_does_not_start_from_several_but_is_told_which_there_are(
    distill_config: DistillConfig, trained: str, distilled: str
) -> None:
    taught = mlflow.get_run(distilled).data.tags["adaptf.upstream.teacher_runs"]
    with pytest.raises(
        UpstreamError, match=f"is of stage 'train_seeds', a run of 'train'.*seed 1: {children_of(trained)[1]}"
    ):
        execute(DISTILL, replace(distill_config, train_run=trained, teacher_runs=taught))


def test_latest_is_never_the_parent_of_seeds(trained: str) -> None:
    assert runs.latest("train", {}) in children_of(trained).values()


def test_a_seed_given_twice_is_refused(train_config: TrainConfig) -> None:
    with pytest.raises(UserError, match="seeds are 3, 3: each should stand there once"):
        execute(TRAIN, replace(train_config, seeds=(3, 3)))


def test_evaluate_shows_runs_over_seeds_by_mean_and_interval(
    train_config: TrainConfig, trained: str, distilled: str
) -> None:
    config = EvaluateConfig(
        prepare_run=train_config.prepare_run,
        train_run=trained,
        distill_run=distilled,
        finetune_run="none",
        quantize_run="none",
        accelerator="cpu",
    )
    run_id = execute(EVALUATE, config)
    accuracies = tables_of(run_id, "accuracies")
    assert list(accuracies.index) == ["trained", "distilled"] and list(accuracies["runs"]) == [3, 3]
    difference = tables_of(run_id, "differences").loc["distilled - trained"]
    means = accuracies["macro average"]
    assert difference["difference"] == pytest.approx(means["distilled"] - means["trained"], abs=0.02)
    assert difference["low"] <= difference["difference"] <= difference["high"]


def test_evaluate_of_nothing_is_refused(train_config: TrainConfig) -> None:
    nothing = dict.fromkeys(("train_run", "distill_run", "finetune_run", "quantize_run"), "none")
    with pytest.raises(UserError, match="there is nothing to evaluate"):
        execute(EVALUATE, EvaluateConfig(prepare_run=train_config.prepare_run, **nothing))
