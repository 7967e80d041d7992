"""Runs of stages: finding them, and what they say."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from adaptf.errors import UserError
from adaptf.tracking import lease
from adaptf.tracking.checkpoint_files import files_of
from adaptf.tracking.complete import COMPLETE, NOT_YET, lack
from adaptf.tracking.several import FOLDS, SEEDS
from adaptf.tracking.tags import CONTINUES, DATA_DIGEST, FINGERPRINT, FOLD, STAGE, TRIAL, UPSTREAM

LATEST, NONE = "latest", "none"
DEFAULT_STORE = "mlflow.db"
_PER_EPOCH = ("train/", "val/", "lr-", "epoch", "system/")
"""Begin of the metrics that are logged while a training goes on."""


class UpstreamError(UserError):
    """A run that a stage needs does not exist, has not finished or lacks an artifact."""


def use_default_store() -> None:
    """Without a tracking URI:
    SQLite in the working directory, by its absolute path, so that it stays the same store."""
    if not os.environ.get("MLFLOW_TRACKING_URI") and not mlflow.is_tracking_uri_set():
        mlflow.set_tracking_uri(f"sqlite:///{Path(DEFAULT_STORE).absolute()}")


def experiment_id() -> str:
    """The experiment of the active run, of the run that `mlflow run` made,
    or the one that MLflow would use."""
    active = mlflow.active_run()
    run_id = active.info.run_id if active else os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        return str(mlflow.get_run(run_id).info.experiment_id)
    if name := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        experiment = mlflow.get_experiment_by_name(name)
        return str(experiment.experiment_id) if experiment else mlflow.create_experiment(name)
    return os.environ.get("MLFLOW_EXPERIMENT_ID", "0")


def search(stage: str, tags: Mapping[str, str], *, status: str = "") -> Iterator[Run]:
    """Runs of a stage in this experiment that carry the tags, newest first;
    MLflow is asked for more as they are taken."""
    wanted = {f"tags.`{name}`": value for name, value in {STAGE: stage, **tags}.items()}
    wanted |= {"attributes.status": status} if status else {}
    condition = " and ".join(f"{name} = '{value}'" for name, value in wanted.items())
    client, experiment, token = mlflow.MlflowClient(), experiment_id(), None
    while token != "":
        page = client.search_runs(
            [experiment], condition, order_by=["attributes.start_time DESC"], page_token=token
        )
        yield from page
        token = page.token or ""


def _whole(found: Iterable[Run], *, so: str) -> Iterator[Run]:
    """Those that have all that belongs to them; of others it says why not, and `so` what follows."""
    for run in found:
        if lacks := lack(run):
            print(f"run {run.info.run_id} ({run.info.run_name}) {lacks}: {so}", flush=True)
        else:
            yield run


def find_finished(stage: str, fingerprint: str) -> Run | None:
    """The run in which this very work was done."""
    found = search(stage, {FINGERPRINT: fingerprint}, status="FINISHED")
    return next(_whole(found, so="it is done again"), None)


def find_interrupted(stage: str, fingerprint: str) -> Run | None:
    """A run in which this very work was begun. Call it while holding the work folder's lock:
    then nobody works on it."""
    found = search(stage, {FINGERPRINT: fingerprint})
    return next((run for run in found if is_interrupted(run)), None)


def is_interrupted(run: Run) -> bool:
    """Whether a run, on which nobody works, did not come to its end."""
    return run.info.status != "FINISHED" or run.data.tags.get(COMPLETE) == NOT_YET


def give_way(run: Run, stage: str, fingerprint: str) -> None:
    """Of processes that make a run for the same work at the same moment, one keeps its run. In all others
    that run is taken back, and Busy is raised.

    The oldest stays, unless clocks differ so much that one that is said to be younger works already.
    """
    for other in search(stage, {FINGERPRINT: fingerprint}, status="RUNNING"):
        if other.info.run_id == run.info.run_id:
            continue
        if _age(other) < _age(run) or lease.is_alive(other.info.run_id):
            mlflow.end_run("KILLED")
            mlflow.MlflowClient().delete_run(run.info.run_id)
            raise lease.busy(other.info.run_id)


def _age(run: Run) -> tuple[int, str]:
    """Less for an older one."""
    return run.info.start_time, run.info.run_id


def any_finished(stage: str) -> bool:
    """Whether there is a finished run of a stage in this experiment."""
    return any(True for _ in finished_runs(stage, {}))


def finished_runs(stage: str, tags: Mapping[str, str]) -> Iterator[Run]:
    """Those that `latest` may mean, newest first."""
    return _whole(_finished(stage, tags), so="nothing is taken from it")


def _finished(stage: str, tags: Mapping[str, str]) -> Iterator[Run]:
    """The same, and those that lack something."""
    found = search(stage, tags, status="FINISHED")
    return (run for run in found if not {TRIAL, FOLD} & set(run.data.tags))


def latest(stage: str, tags: Mapping[str, str]) -> str:
    """Id of the newest finished run of a stage. Raises UpstreamError that says how to make one."""
    for run in finished_runs(stage, tags):
        return str(run.info.run_id)
    wanted = "".join(f" with {name} = {value}" for name, value in tags.items())
    raise UpstreamError(
        f"no run of stage '{stage}'{wanted} has finished in this experiment of {mlflow.get_tracking_uri()}. "
        f"Run it first (mlflow run . -e {stage} --env-manager local), or name a run's id instead of "
        f"'{LATEST}'"
    )


def latest_of_each(stage: str, tag: str) -> list[str]:
    """Ids of the newest finished runs of a stage, one for each value of a tag."""
    newest: dict[str, str] = {}
    others = (run for run in _finished(stage, {}) if run.data.tags.get(tag, "") not in {"", *newest})
    for run in _whole(others, so="nothing is taken from it"):
        newest[run.data.tags[tag]] = str(run.info.run_id)
    return [newest[value] for value in sorted(newest)] or [latest(stage, {})]


def finished_run(run_id: str, *stages: str) -> Run:
    """A run by its id. Raises UpstreamError where there is none, it is of another stage than these,
    or lacks something.

    Without stages any will do.
    """
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        raise UpstreamError(f"there is no run '{run_id}' in {mlflow.get_tracking_uri()}") from error
    found = run.data.tags.get(STAGE)
    if stages and found not in stages:
        one_each = "".join(
            f"; {several.what} {number}: {child}"
            for several in (SEEDS, FOLDS)
            for number, child in several.children(run).items()
        )
        raise UpstreamError(f"run {run_id} is of stage '{found}', a run of '{stages[0]}' is needed{one_each}")
    if lacks := lack(run):
        raise UpstreamError(f"run {run_id} of stage '{found}' {lacks}. Run that stage again")
    return run


def check_data(run_id: str, data_digest: str) -> None:
    """Raises UpstreamError where a run learnt from other data, such as another split of the same clips."""
    tags = mlflow.get_run(run_id).data.tags
    learnt = tags.get(DATA_DIGEST, data_digest)
    if learnt != data_digest:
        raise UpstreamError(
            f"run {run_id} learnt from other data (digest {learnt}) than that of this stage (digest "
            f"{data_digest}): clips that it was trained on may be among those that judge it here. Give "
            f"prepare_run={tags.get(UPSTREAM + 'prepare_run')}, or run the stages before on this data"
        )


def stage_of(run_id: str) -> str:
    """The stage of a finished run."""
    return str(finished_run(run_id).data.tags.get(STAGE))


def name_of(run_id: str) -> str:
    """What the run's page calls it."""
    return str(mlflow.get_run(run_id).info.run_name)


def split_ids(value: str) -> list[str]:
    """Run ids separated by commas, or checkpoint files, in whose names some may be."""
    return [value] if files_of(value) else value.split(",")


def scores(run_id: str) -> dict[str, float]:
    """The metrics that a stage gave at its end: not those of single epochs."""
    return {
        name: value
        for name, value in mlflow.get_run(run_id).data.metrics.items()
        if not name.startswith(_PER_EPOCH)
    }


def metric_per_epoch(run_id: str, name: str) -> list[float]:
    """The values of a metric by epoch; of an epoch that was done again after an interruption the latter."""
    entries = mlflow.MlflowClient().get_metric_history(run_id, name)
    history = sorted(entries, key=lambda entry: (entry.step, entry.timestamp))
    return list({entry.step: entry.value for entry in history}.values())


def fingerprint_of(run: Run) -> str:
    """What a run was made from; runs alike have the same."""
    return str(run.data.tags.get(FINGERPRINT, run.info.run_id))


def digest(*parts: str) -> str:
    """A short name of some text."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def upstream_of(run_id: str, stage: str, field: str) -> str:
    """The run ids that a finished run took for one of its fields."""
    return str(finished_run(run_id, stage).data.tags[UPSTREAM + field])


def hand_over(made: str, run_id: str, name: str) -> None:
    """Ends a run that `mlflow run` has made, where an interrupted one goes on in its place,
    below which it is shown."""
    name_run(made, f"{name}: goes on in the run above", parent=run_id)
    client = mlflow.MlflowClient()
    client.set_tag(made, CONTINUES, run_id)
    client.set_tag(made, MLFLOW_RUN_NOTE, f"Goes on in run {run_id}, which was interrupted: look there.")
    client.set_terminated(made)


def name_run(run_id: str, name: str, *, parent: str | None) -> None:
    """The name and the parent that the run's page shows."""
    client = mlflow.MlflowClient()
    client.set_tag(run_id, MLFLOW_RUN_NAME, name)
    if parent:
        client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent)
