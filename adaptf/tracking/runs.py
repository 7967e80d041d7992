"""Runs of stages: finding them, their artifacts, and what a stage gets to work with."""

import hashlib
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import filelock
import mlflow
import pandas as pd
from lightning.pytorch.loggers import Logger
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from adaptf.data.shared_objects import SharedObjects
from adaptf.errors import UserError
from adaptf.names import stored
from adaptf.paths import user_path
from adaptf.tracking import lease
from adaptf.tracking.checkpoint_files import files_of, labels_of
from adaptf.tracking.complete import COMPLETE, NOT_YET, lack, set_complete
from adaptf.tracking.epoch_metrics import EpochLogger, send
from adaptf.tracking.lease import Busy
from adaptf.tracking.logged_models import judge_models, keep_model
from adaptf.tracking.notes import LONGEST_NOTE, for_page
from adaptf.tracking.refusals import refusal
from adaptf.tracking.registry import STAGE as STAGE
from adaptf.tracking.server import patiently
from adaptf.training.group import process_place

FINGERPRINT = "adaptf.fingerprint"
UPSTREAM = "adaptf.upstream."
"""Begin of a tag per run that a stage took from, whatever the command line said (`latest`)."""
FILE = "adaptf.file."
"""Begin of a tag per checkpoint file that a stage took from in the place of a run: its name and digest."""
FOLD = "adaptf.fold"
"""Tag: which fold's data a run made or worked on; `latest` never means such a run, as other folds belong to
it."""
TRIAL = "adaptf.trial"
"""Tag: the number of the trial of a sweep whose run it is; `latest` never means such a run."""
REFIT = "adaptf.refit"
"""Tag: the run learnt from the validation clips too, on which nothing that comes of it can be judged."""
SCORE = "adaptf.score"
"""Tag: the metric, or the begin of those, that tells how good the run's model is."""
DATA_DIGEST = "adaptf.digest"
"""Tag: digest of the data set that a run made or worked on."""
CONTINUES = "adaptf.continues"
"""Tag of a run that `mlflow run` made in vain: the interrupted one in which the work went on."""
LATEST, NONE = "latest", "none"
_WORK = "ADAPTF_WORK"
DEFAULT_STORE = "mlflow.db"
_PER_EPOCH = ("train/", "val/", "lr-", "epoch", "system/")
"""Begin of the metrics that are logged while a training goes on."""


Watch = Callable[[int, float], None]
"""Takes the epochs that are done, so 1 first, and the score of their validation."""


class StopTraining(Exception):
    """`watch` raises it, or one of its kind, to end a training that is of no more use:
    no failure, and nothing to resume."""


class UpstreamError(UserError):
    """A run that a stage needs does not exist, has not finished or lacks an artifact."""


@dataclass(frozen=True)
class Several:
    """What a stage goes over, a child run for each under a parent, whose tags name them."""

    what: str
    """seed or fold"""

    @property
    def suffix(self) -> str:
        """Of the parent's stage: nothing that asks for a run of the stage takes it for one."""
        return f"_{self.what}s"

    def children(self, run: Run) -> dict[int, str]:
        """The runs by number of their parent; empty for any other run."""
        begin, tags = self.tag(""), run.data.tags
        return {int(name.removeprefix(begin)): tags[name] for name in sorted(tags) if name.startswith(begin)}

    def tag(self, number: int | str) -> str:
        """Of the parent: it holds the child."""
        return f"adaptf.{self.what}.{number}"


SEEDS, FOLDS = Several("seed"), Several("fold")


@dataclass(frozen=True)
class UsedData:
    """Data that a run used, as its page shows it."""

    name: str
    digest: str
    table: pd.DataFrame
    source: str
    """Where the data came from."""
    fold: str = ""
    """Which of several folds validates, such as `2 of 5 by city`; '' where there is one split alone."""


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


@dataclass(frozen=True)
class StageRun:
    """The run that a stage works for."""

    run_id: str
    name: str
    folder: Path
    """Kept while the stage is unfinished, so that it can resume; deleted afterwards."""
    watch: Watch | None = None
    """Told of each validation's epoch and score; what it raises ends the training."""
    shared: SharedObjects = field(default_factory=SharedObjects)
    """What a process's stages need not read twice."""

    def logger(self) -> Logger:
        """Lightning's, which needs no server:
        the metrics that it notes go to the run when the server answers."""
        return EpochLogger(self.folder, lease.raise_if_lost)

    def send_metrics(self) -> None:
        """Brings to the run what its logger has noted and the store does not have."""
        send(self.folder, self.run_id)

    def log_input(self, data_set: UsedData) -> None:
        """Notes what data the run works on."""
        if is_process_zero():
            lease.check()
            _log_data_set(data_set)
            mlflow.set_tags({DATA_DIGEST: data_set.digest, **fold_tag(data_set.fold)})

    def download(self, run_id: str, artifact: str) -> Path:
        """Local path of another run's artifact (file or folder), fetched once for all that share it:
        nobody may change it."""
        downloads = self.shared.once(
            "downloads", lambda: TemporaryDirectory(prefix="adaptf-")
        )  # goes when `shared` does
        return self.shared.once(
            ("download", run_id, artifact), lambda: download(run_id, artifact, Path(downloads.name))
        )


def download(run_id: str, artifact: str, folder: Path) -> Path:
    """Local path of a run's artifact, in a subfolder of its own. Raises UpstreamError where there is none."""
    target = folder / run_id
    target.mkdir(exist_ok=True)
    try:
        return Path(
            mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=artifact, dst_path=str(target))
        )
    except (MlflowException, OSError) as error:
        reason = refusal(error) or f"run {run_id} has no artifact '{artifact}': {error}"
        raise UpstreamError(reason) from error


def is_process_zero() -> bool:
    """Whether this process is the one of a distributed training that writes to MLflow."""
    return process_place() == (0, 0)


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


def fold_tag(fold: str) -> dict[str, str]:
    """Of a run on this fold's data; none where there is one split alone."""
    return {FOLD: fold} if fold else {}


def file_tags(field: str, value: str) -> dict[str, str]:
    """By device the checkpoint files that a field names; none where it names runs."""
    return {f"{FILE}{field}/{stored(device)}": label for device, label in labels_of(value).items()}


def with_all_seeds(run: Run) -> list[str]:
    """The ids of the runs for which a run stands: those of all seeds, or itself."""
    return list(SEEDS.children(run).values()) or [str(run.info.run_id)]


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


def work_root() -> Path:
    """Where unfinished stages keep what they need:
    the folder ADAPTF_WORK, or `work` in the working directory."""
    given = os.environ.get(_WORK)
    return Path(user_path(given, what=_WORK)) if given else Path("work").absolute()


def work_folder_name(stage: str, fingerprint: str) -> str:
    """As it stands below `work_root()`."""
    return f"{stage}-{fingerprint[:16]}"


def settle_work_root() -> None:
    """Takes a relative ADAPTF_WORK from where the user stands, for this process and those that it starts."""
    if os.environ.get(_WORK):
        os.environ[_WORK] = str(work_root())


@contextmanager
def work_folder(stage: str, fingerprint: str) -> Iterator[Path]:
    """The folder in which a stage keeps what it needs to resume, for one process (and its helpers) at a time.

    A stage that leaves nothing in it leaves no folder. Raises Busy where another process has it.
    """
    folder = work_root() / work_folder_name(stage, fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    if not is_process_zero():
        yield folder
        return
    lock = filelock.FileLock(folder.with_suffix(".lock"))
    try:
        with lock.acquire(blocking=False):
            folder.mkdir(exist_ok=True)  # whoever held the lock until now may have removed it
            try:
                yield folder
            finally:
                with suppress(OSError):  # it holds something, or the stage has removed it
                    folder.rmdir()
    except filelock.Timeout:
        raise Busy(
            f"another process is running this {stage} with the same settings and data (it holds {folder})",
            wait=lambda: _wait_for(lock),
        ) from None


def _wait_for(lock: filelock.BaseFileLock) -> None:
    """Until whoever holds it is done."""
    with lock:
        pass


def digest(*parts: str) -> str:
    """A short name of some text."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def upstream_of(run_id: str, stage: str, field: str) -> str:
    """The run ids that a finished run took for one of its fields."""
    return str(finished_run(run_id, stage).data.tags[UPSTREAM + field])


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
        _log_data_set(data_set)
    tags = dict(result.tags)
    if result.note:
        tags[MLFLOW_RUN_NOTE] = for_page(result.note, longest=LONGEST_NOTE)
    mlflow.set_tags(tags)
    active = mlflow.active_run()
    if active and result.kept:
        keep_model(active.info.run_id, result.kept, result.metrics)
    if active and result.judged:
        judge_models(active.info.run_id, result.judged)


def _log_data_set(data_set: UsedData) -> None:
    """Adds a data set to the inputs of the active run, which uses it for its stage."""
    active = mlflow.active_run()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*can be interpreted in multiple ways.*")
        # A few rows tell the columns: MLflow looks at every value, seconds for a table of 200,000.
        shown = from_pandas(data_set.table.head(), source=data_set.source, digest=data_set.digest)
    described = MetaDataset(shown.source, name=data_set.name, digest=data_set.digest, schema=shown.schema)  # type: ignore[abstract]
    mlflow.log_input(described, context=active.data.tags.get(STAGE) if active else None)


def _log_file(place: str, path: Path) -> None:
    """Logs a file or folder under the artifact path `place`, which ends with its name."""
    if path.is_dir():
        mlflow.log_artifacts(str(path), place)
        return
    folder, _, name = place.rpartition("/")
    if name != path.name:
        raise ValueError(f"artifact '{place}' should end with the name of its file, '{path.name}'")
    mlflow.log_artifact(str(path), folder or None)


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
