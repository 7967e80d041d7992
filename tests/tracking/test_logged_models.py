"""What the Models page of MLflow ranks: a logged model for each that a run keeps."""

from dataclasses import replace
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus

from adaptf.mlproject.evaluate import EVALUATE, EvaluateConfig
from adaptf.mlproject.prune import PruneConfig, prune
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.stage import execute
from adaptf.tracking import outcome, runs
from adaptf.tracking.outcome import Result

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(train_config: TrainConfig) -> list[str]:
    """Two, of which the first leaves its model's metrics twice, as one does whose server was away in
    between."""
    first = execute(TRAIN, train_config)
    return [first, execute(TRAIN, replace(train_config, seed=1))]


def ranked(metric: str, **more: str) -> list[Any]:
    """All logged models by a metric, the best first."""
    return list(
        mlflow.search_logged_models(
            [runs.experiment_id()],
            order_by=[{"field_name": f"metrics.{metric}", "ascending": False, **more}],
            output_format="list",
        )
    )


def test_trainings_are_ranked_by_a_metric_on_their_validation_clips(
    trained: list[str], prepared: str
) -> None:
    data = mlflow.get_run(prepared).inputs.dataset_inputs[0].dataset
    found = ranked("best/accuracy", dataset_name=f"{data.name} validation", dataset_digest=data.digest)
    scores = {run_id: mlflow.get_run(run_id).data.metrics["best/accuracy"] for run_id in trained}
    assert {model.source_run_id for model in found} == set(trained)
    assert [scores[str(model.source_run_id)] for model in found] == sorted(scores.values(), reverse=True)
    for model in found:
        run = mlflow.get_run(model.source_run_id)
        assert (model.name, model.model_type, model.status) == (
            "train DIR=0_5 lr=0_01",
            "train",
            LoggedModelStatus.READY,
        )
        assert model.tags["adaptf.artifact"] == f"runs:/{model.source_run_id}/checkpoints/best.ckpt"
        assert model.params["seed"] == run.data.params["seed"]
        assert [one.model_id for one in run.outputs.model_outputs] == [model.model_id]
        assert {one.dataset_name for one in model.metrics} == {f"{data.name} validation"}


def test_a_run_that_leaves_its_result_again_makes_no_second_model(trained: list[str]) -> None:
    with mlflow.start_run(run_id=trained[0]):
        outcome.log_result(Result(metrics={"best/accuracy": 0.5}, kept="checkpoints/best.ckpt"))
    assert len(ranked("best/accuracy")) == 2


def test_evaluate_gives_the_models_their_scores_on_test_clips_and_names_them_as_its_input(
    trained: list[str], prepared: str
) -> None:
    nothing = dict.fromkeys(("distill_run", "finetune_run", "quantize_run"), "none")
    config = EvaluateConfig(prepare_run=prepared, train_run=",".join(trained), accelerator="cpu", **nothing)
    run_id = execute(EVALUATE, config)
    found = ranked("test/accuracy")
    accuracies = [
        metric.value for model in found for metric in model.metrics if metric.key == "test/accuracy"
    ]
    mean = mlflow.get_run(run_id).data.metrics["test/accuracy/trained"]
    assert sum(accuracies) / 2 == pytest.approx(mean) and accuracies == sorted(accuracies, reverse=True)
    assert {metric.dataset_name for metric in found[0].metrics} == {"tau validation", "tau test"}
    inputs = mlflow.get_run(run_id).inputs.model_inputs
    assert {one.model_id for one in inputs} == {model.model_id for model in found}


def test_models_of_deleted_runs_go_with_prune(trained: list[str]) -> None:
    MlflowClient().delete_run(trained[1])
    assert "1 logged models of deleted runs" in prune(PruneConfig(yes=True))
    assert [model.source_run_id for model in ranked("best/accuracy")] == trained[:1]


def test_system_metrics_are_sampled_where_they_are_asked_for_and_are_no_score(
    train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    trainer = replace(train_config.trainer, system_metrics=True)
    run_id = execute(TRAIN, replace(train_config, trainer=trainer))
    metrics = mlflow.get_run(run_id).data.metrics
    assert (
        "system/cpu_utilization_percentage" in metrics and "system/system_memory_usage_percentage" in metrics
    )
    assert not any(name.startswith("system/") for name in runs.scores(run_id))


def test_system_metrics_of_a_gpu_that_nothing_reads_are_refused(
    train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptf.pipeline.system_metrics.find_spec", lambda name: None)
    trainer = replace(train_config.trainer, system_metrics=True, accelerator="gpu")
    with pytest.raises(runs.UserError, match="pip install nvidia-ml-py"):
        execute(TRAIN, replace(train_config, trainer=trainer))
