"""The study of a sweep: where it is kept, who begins it and who joins it, and which workers are alive."""

import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import filelock
import mlflow
import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError

from adaptf.errors import UserError
from adaptf.pipeline.config import file_or_name, settings, upstream_fields
from adaptf.pipeline.stage import plain
from adaptf.pipeline.upstream import resolve_upstream
from adaptf.sweeps.space import NOT_SEARCHED, Space
from adaptf.tracking.runs import LATEST, work_root

JOURNAL = "journal"
ABOUT = "adaptf"
"""Attribute of a study: what all of its workers have to agree on, and its run."""
BEGINNING_SECONDS = 30.0
"""A study that says nothing of itself after so long, nobody is beginning any more."""
GRACE_BEATS = 3
"""A trial is lost after so many heartbeats that did not come."""
Score = Literal["accuracy", "worst_device"]
Pruning = Literal["halving", "none"]
Sampling = Literal["tpe", "random"]


@dataclass(frozen=True)
class SearchConfig:
    """How the settings are searched."""

    study: str = "default"
    """Name; `default`: that of the stage. Workers with the same study and storage share its trials, and one that was
    interrupted is resumed by its name."""
    storage: str = file_or_name(JOURNAL)
    """journal: a file beside the MLflow store, for the processes of one machine. Else the URL of a database, for many machines,
    as in postgresql+psycopg2://user@host/database; its password belongs in the variable PGPASSWORD, since a run's settings
    are shown to all."""
    trials: int = 30
    """Trials that the study shall have in the end, those of all workers together, complete ones and those ended early."""
    space: str = "default"
    """YAML file of the fields and their ranges; `default`: spaces/<stage>.yaml of the package."""
    objectives: tuple[Score, ...] = ("accuracy",)
    """accuracy: macro average on the validation clips. accuracy,worst_device: also that of the device that is worst; gives the
    front of settings of which none is better in both. Nothing is ended early then."""
    default_first: bool = True
    """The first trial has the settings as they are, where they lie within the space."""
    sampler: Sampling = "tpe"
    """tpe: tree-structured Parzen estimator (Bergstra et al., 2011). random."""
    startup_trials: int = 10
    """Random trials before tpe learns from them."""
    seed: int = 0
    """Of the sampler. With one worker the same seed gives the same trials."""
    pruner: Pruning = "halving"
    """halving: ends trials that are not among the best at some epochs (successive halving, Li et al., 2020). none."""
    min_epochs: int = 0
    """Epochs after which halving first looks at a trial; 0: a fifth of the training's."""
    reduction_factor: int = 3
    """One in so many trials goes on at each look, and the next look comes after so many times the epochs."""
    heartbeat_seconds: int = 60
    """How often a worker tells a database that it is alive; without news for three times as long its trial is another's."""


def check_search(config: SearchConfig) -> None:
    """Raises UserError for values that nothing can be searched with."""
    if not re.fullmatch(r"[\w.-]+", config.study):
        raise UserError(f"sweep.study should be a name of letters, digits, '.', '-' and '_', got '{config.study}'")
    if config.objectives not in (("accuracy",), ("accuracy", "worst_device")):
        raise UserError(f"sweep.objectives is {','.join(config.objectives)}: give accuracy, or accuracy,worst_device")
    lowest = {"trials": 1, "startup_trials": 1, "min_epochs": 0, "reduction_factor": 2, "heartbeat_seconds": 1, "seed": 0}
    for name, least in lowest.items():
        if getattr(config, name) < least:
            raise UserError(f"sweep.{name} should be {least} or more, got {getattr(config, name)}")


def prunes(config: SearchConfig, stage: str) -> bool:
    """Whether trials can be ended early: they need one score per epoch, and one objective."""
    return config.pruner == "halving" and stage != "finetune" and len(config.objectives) == 1


def journal_path(study: str) -> Path:
    """Beside the MLflow store where that is a file, else in the work folder."""
    uri = mlflow.get_tracking_uri()
    database = make_url(uri).database if uri.startswith("sqlite:") else None
    beside = Path(database).parent if database else work_root()
    return beside.absolute() / "sweeps" / f"{study}.journal"


def check_storage(value: str) -> None:
    """Raises UserError for a database that can't be reached, before any work."""
    if value == JOURNAL:
        return
    with _database_errors(value):
        create_engine(value).connect().close()
    if is_same_database(value, mlflow.get_tracking_uri()):
        raise UserError(
            f"sweep.storage {_shown(value)} is MLflow's own database, and both keep their version in a table of the same name: "
            "make a database for the studies"
        )
    if make_url(value).password:
        print("The password in sweep.storage can be read in the runs' settings: give it as PGPASSWORD instead", flush=True)


def is_same_database(one: str, other: str) -> bool:
    """Whether two URLs lead to the same tables, whoever asks for them."""
    try:
        return _place(one) == _place(other)
    except ArgumentError:
        return False  # MLflow's store may be a folder


def _place(value: str) -> tuple[Any, ...]:
    url = make_url(value)
    return url.get_backend_name(), url.host or url.query.get("host"), url.port, url.database


def has_begun(search: SearchConfig) -> bool:
    """Whether there is a study of this name already."""
    if search.storage == JOURNAL and not journal_path(search.study).is_file():
        return False
    storage = open_storage(search.storage, study=search.study, heartbeat_seconds=search.heartbeat_seconds)
    return search.study in {found.study_name for found in storage.get_all_studies()}


def open_storage(value: str, *, study: str, heartbeat_seconds: int) -> BaseStorage:
    """The journal's file or the database. Raises UserError where there is no way to it."""
    if value == JOURNAL:
        path = journal_path(study)
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    with _database_errors(value), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for attempt in range(10):
            try:
                return RDBStorage(
                    value,
                    heartbeat_interval=heartbeat_seconds,
                    grace_period=GRACE_BEATS * heartbeat_seconds,
                    engine_kwargs={"pool_pre_ping": True},  # a training may outlast the database's patience
                )
            except (DBAPIError, StorageInternalError):
                if attempt == 9:
                    raise
                time.sleep(0.5)  # another worker is making the tables at this moment
    raise AssertionError


@contextmanager
def _database_errors(value: str) -> Iterator[None]:
    try:
        yield
    except (NoSuchModuleError, ImportError) as error:
        raise UserError(f"sweep.storage {_shown(value)} needs a driver that is not installed: {error}") from error
    except ArgumentError:
        raise UserError(
            f"sweep.storage '{value}' is neither '{JOURNAL}' nor the URL of a database such as "
            "postgresql+psycopg2://user@host/database"
        ) from None
    except OperationalError as error:
        raise UserError(f"sweep.storage {_shown(value)} can't be reached: {str(error.orig).strip()}") from error
    except (SQLAlchemyError, RuntimeError) as error:
        raise UserError(f"sweep.storage {_shown(value)} can't be used: {error}") from error


def _shown(value: str) -> str:
    """Without its password."""
    return make_url(value).render_as_string(hide_password=True)


@dataclass(frozen=True)
class About:
    """What the trials of a study have in common."""

    stage: str
    objectives: list[str]
    space: dict[str, str]
    """Field -> distribution as Optuna writes it."""
    settings: dict[str, Any]
    """Of the stage, without what is searched, where it runs and what it takes from."""
    upstream: dict[str, str]
    """Runs that the stage takes from: all trials from the same ones."""
    run: str = field(default="", compare=False)
    """The run under which the trials' runs are."""


def about(stage: str, search: SearchConfig, space: Space, config: Any) -> About:
    """Of a study with these settings."""
    upstream = {one.name: getattr(config, one.name) for one in upstream_fields(config)}
    left_out = {*upstream, *space}
    values = plain({name: value for name, value in settings(config).items() if name not in left_out})
    fixed = {name: value for name, value in values.items() if name == "seed" or name.partition(".")[0] not in NOT_SEARCHED}
    ranges = {name: distribution_to_json(distribution) for name, distribution in space.items()}
    return About(stage, list(search.objectives), ranges, fixed, upstream)


def begin_or_join(
    storage: BaseStorage, search: SearchConfig, space: Space, config: Any, *, stage: str, run: str
) -> tuple[optuna.Study, About]:
    """The study, which the first worker begins, and what all of its workers agree on.

    The first one chooses which runs `latest` means. Raises UserError where the study has other settings than these.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # a sweep says itself what became of a trial
    if search.study not in {found.study_name for found in storage.get_all_studies()}:
        mine = about(stage, search, space, resolve_upstream(config))
        directions = [StudyDirection.MAXIMIZE] * len(search.objectives)
        with suppress(DuplicatedStudyError):  # another worker was quicker
            study = optuna.create_study(storage=storage, study_name=search.study, directions=directions)
            study.set_user_attr(ABOUT, asdict(mine) | {"run": run})
    study = optuna.load_study(storage=storage, study_name=search.study)
    theirs = about_of(study)
    if differences := differences_of(about(stage, search, space, config), theirs):
        listed = "\n  ".join(differences)
        raise UserError(f"study '{search.study}' has other settings, give another sweep.study or the same:\n  {listed}")
    return study, theirs


def about_of(study: optuna.Study) -> About:
    """Raises UserError for a study that says nothing of itself; one that is just being begun gets some time."""
    until = time.monotonic() + BEGINNING_SECONDS
    while ABOUT not in (found := study.user_attrs):
        if time.monotonic() > until:
            raise UserError(
                f"study '{study.study_name}' is none of adaptf, or was interrupted as it began: give another sweep.study"
            )
        time.sleep(0.2)
    return About(**found[ABOUT])


def differences_of(mine: About, theirs: About) -> list[str]:
    """In words; upstream runs that were left to `latest` are whatever the study has."""
    found = []
    if mine.stage != theirs.stage:
        return [f"stage: {theirs.stage} there, {mine.stage} here"]
    if mine.objectives != theirs.objectives:
        found.append(f"objectives: {','.join(theirs.objectives)} there, {','.join(mine.objectives)} here")
    found += _differences(mine.space, theirs.space, "space, ")
    found += _differences(mine.settings, theirs.settings, f"{mine.stage}.")
    found += _differences({name: value for name, value in mine.upstream.items() if value != LATEST}, theirs.upstream, "")
    return found


def _differences(mine: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str) -> list[str]:
    names = [name for name in {**theirs, **mine} if prefix or name in mine]
    return [
        f"{prefix}{name}: {theirs.get(name, 'not')} there, {mine.get(name, 'not')} here"
        for name in names
        if mine.get(name) != theirs.get(name)
    ]


@dataclass(frozen=True)
class Worker:
    """One process that runs trials of a study."""

    name: str
    locks: bool
    """Whether the workers of its study tell by locks that they live."""
    nameless: dict[int, float] = field(default_factory=dict)
    """Running trials without a worker's name, by number: when this worker first saw each, by its own clock."""


@contextmanager
def worker(storage: BaseStorage, study: str) -> Iterator[Worker]:
    """This process; with a journal it holds a lock while it lives, because nothing else tells the others that it does."""
    me = Worker(uuid4().hex[:12], locks=isinstance(storage, JournalStorage))
    if not me.locks:
        yield me
        return
    path = lock_path(study, me.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path):
            yield me
    finally:
        path.unlink(missing_ok=True)


def lock_path(study: str, name: str) -> Path:
    """Of a worker with a journal."""
    return journal_path(study).with_suffix(".workers") / f"{name}.lock"


def is_dead(study: str, name: str) -> bool:
    """Whether nobody holds the lock of a worker; it lies beside the journal, so it tells in any container that has that."""
    path = lock_path(study, name)
    if not path.exists():
        return True
    try:
        with filelock.FileLock(path, timeout=0):
            path.unlink(missing_ok=True)
            return True
    except filelock.Timeout:
        return False
