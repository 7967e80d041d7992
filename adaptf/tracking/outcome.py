"""What a stage leaves in its run, and the run's end."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from adaptf.tracking import lease
from adaptf.tracking.complete import set_complete
from adaptf.tracking.logged_models import judge_models, keep_model
from adaptf.tracking.notes import LONGEST_NOTE, for_page
from adaptf.tracking.server import patiently
from adaptf.tracking.stage_run import StageRun, UsedData, log_data_set


@dataclass(frozen=True)
class Result:
    """What a stage leaves in its run."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    """Artifact folder ('' is the top) with name -> local file or folder."""
    tags: Mapping[str, str] = field(default_factory=dict)
    kept: str = ""
    """The artifact that is a model, if there is one: the metrics are then those of the model on validation
    clips."""
    judged: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Run -> metrics of the model that it keeps, on test clips."""
    parts: Collection[str] = ()
    """Ids of the runs in which the work was done: without them this one is of no use."""
    data_sets: Sequence[UsedData] = ()
    note: str = ""
    """Markdown that the run's page shows on top."""
    summary: str = ""
    """What the terminal shows at the end."""


def log_all(result: Result) -> None:
    """Writes a result to the active run as all that it leaves."""
    log_result(result)
    set_complete(result.files, result.parts)


def end(run: StageRun, status: str, *last_words: Callable[[], None], waits: bool = True) -> None:
    """Writes what a stage leaves at its end, then the status, as soon as the server answers; unless it
    `waits`, now or not at all. Raises LeaseLost; a run around this one that was lost is no reason not to end
    this one."""
    mine = lease.of(run.run_id)

    def leave_all() -> None:
        mine.check()
        run.send_metrics()
        for word in last_words:
            word()

    def set_status() -> None:
        mine.check()
        _end(run.run_id, status)

    # Each is done again for itself: MLflow would begin another run where this one is not active any more.
    for step in (leave_all, set_status, mine.release):
        if waits:
            patiently(step, what=f"the end of {run.name} ({status})")
        else:
            step()


def _end(run_id: str, status: str) -> None:
    active = mlflow.active_run()
    if active and active.info.run_id == run_id:
        mlflow.end_run(status)
    else:  # MLflow forgets an active run also where its end does not reach the server
        mlflow.MlflowClient().set_terminated(run_id, status)


def log_result(result: Result) -> None:
    """Writes a result to the active run. Raises LeaseLost."""
    if result.metrics and not result.kept:
        mlflow.log_metrics(dict(result.metrics))
    for place, path in result.files.items():
        lease.check()
        _log_file(place, path)
    for data_set in result.data_sets:
        log_data_set(data_set)
    tags = dict(result.tags)
    if result.note:
        tags[MLFLOW_RUN_NOTE] = for_page(result.note, longest=LONGEST_NOTE)
    mlflow.set_tags(tags)
    active = mlflow.active_run()
    if active and result.kept:
        keep_model(active.info.run_id, result.kept, result.metrics)
    if active and result.judged:
        judge_models(active.info.run_id, result.judged)


def _log_file(place: str, path: Path) -> None:
    """Logs a file or folder under the artifact path `place`, which ends with its name."""
    if path.is_dir():
        mlflow.log_artifacts(str(path), place)
        return
    folder, _, name = place.rpartition("/")
    if name != path.name:
        raise ValueError(f"artifact '{place}' should end with the name of its file, '{path.name}'")
    mlflow.log_artifact(str(path), folder or None)
