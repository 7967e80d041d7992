"""What runs keep as logged models of MLflow, which its Models page ranks: pointers to artifacts, with metrics
per data set."""

import re
from collections.abc import Iterator, Mapping, Sequence

import mlflow
from mlflow.entities import (
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Run,
)
from mlflow.utils.time import get_current_time_millis

from adaptf.data.clips import TEST, VALIDATION
from adaptf.tracking.tags import STAGE

ARTIFACT = "adaptf.artifact"
"""Tag of a logged model: where it lies, such as runs:/<id>/checkpoints/best.ckpt."""
_NOT_IN_NAMES = r"[/:.%\"']"
_LONGEST_PARAMETER = 5000
_MOST = 50
"""Models to a page."""


def keep_model(run_id: str, artifact: str, metrics: Mapping[str, float]) -> None:
    """Makes the model that lies in a run known, and the run's metrics as those on the validation clips of its
    data; once, however often it is called."""
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    model = next(models_of(run), None) or client.create_logged_model(
        run.info.experiment_id,
        re.sub(_NOT_IN_NAMES, "_", str(run.info.run_name)),
        run_id,
        tags={ARTIFACT: f"runs:/{run_id}/{artifact}"},
        params={name: value[:_LONGEST_PARAMETER] for name, value in run.data.params.items()},
        model_type=run.data.tags.get(STAGE),
    )
    known = {one.model_id for one in run.outputs.model_outputs} if run.outputs else set()
    if model.model_id not in known:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    _log(run, model, VALIDATION, metrics)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def judge_models(run_id: str, judged: Mapping[str, Mapping[str, float]]) -> None:
    """Notes in a run what it says of the models of other runs on the test clips of its data. Of those runs
    that keep none it says nothing."""
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    known = {one.model_id for one in run.inputs.model_inputs} if run.inputs else set()
    for other, metrics in judged.items():
        for model in models_of(client.get_run(other)):
            if model.model_id not in known:
                client.log_inputs(run_id, models=[LoggedModelInput(model.model_id)])
            _log(run, model, TEST, metrics)


def models_of(run: Run) -> Iterator[LoggedModel]:
    """What `keep_model` made of a run: one model at most."""
    return kept_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")


def kept_models(experiment_ids: Sequence[str], condition: str = "") -> Iterator[LoggedModel]:
    """Those that nobody has deleted; others than `keep_model` makes, such as registered ones, are left
    out."""
    client, token = mlflow.MlflowClient(), None
    while token != "":
        page = client.search_logged_models(
            list(experiment_ids), condition or None, max_results=_MOST, page_token=token
        )
        yield from (model for model in page if ARTIFACT in model.tags)
        token = page.token or ""


def _log(run: Run, model: LoggedModel, split: str, metrics: Mapping[str, float]) -> None:
    """As metrics of the run and of the model, on a split of the data that are the run's input."""
    data_sets = [one.dataset for one in run.inputs.dataset_inputs] if run.inputs else []
    data_name, data_digest = (data_sets[0].name, data_sets[0].digest) if data_sets else ("", "")
    values = [
        Metric(
            name,
            value,
            get_current_time_millis(),
            step=0,
            model_id=model.model_id,
            dataset_name=f"{data_name} {split}",
            dataset_digest=data_digest,
            run_id=run.info.run_id,
        )
        for name, value in metrics.items()
    ]
    mlflow.MlflowClient().log_batch(run.info.run_id, metrics=values)
