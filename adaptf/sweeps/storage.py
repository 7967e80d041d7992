"""The database that holds the studies of sweeps: a SQLite file, or one that many machines share."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from adaptf.errors import UserError
from adaptf.sweeps.search import BESIDE, SearchConfig
from adaptf.sweeps.tries import run_again
from adaptf.tracking.work_folder import work_root

_GRACE_BEATS = 3
"""A trial is lost after so many heartbeats that did not come."""
_SQLITE_PATIENCE_SECONDS = 60
"""SQLite takes one writer at a time; the others wait."""
_OPENINGS = 10
"""Of workers that begin at once only one can make the tables; the others try again."""


def check_storage(config: SearchConfig) -> None:
    """Raises UserError for a database that can't be reached or holds something else, before any work."""
    url = _url(config.storage)
    with _database_errors(url):
        create_engine(url).connect().close()
    if _is_same_database(url, mlflow.get_tracking_uri()):
        raise UserError(
            f"sweep.storage {url} is MLflow's own database, and both keep their version in a table "
            "of the same name: make a database for the studies"
        )
    if make_url(url).password:
        print(
            "The password in sweep.storage can be read in the runs' settings: give it as PGPASSWORD instead",
            flush=True,
        )
    journal = _store_folder() / "sweeps" / f"{config.study}.journal"
    if config.storage == BESIDE and journal.is_file() and not has_begun(config):
        raise UserError(
            f"study '{config.study}' was begun by a version of adaptf that kept it in {journal}, which this "
            "one does not go on with: give another sweep.study, or remove that file to begin again. The runs "
            "of its trials stay"
        )


def _is_same_database(one: str, other: str) -> bool:
    """Whether two URLs lead to the same tables, whoever asks for them."""
    try:
        return _place(one) == _place(other)
    except ArgumentError:
        return False  # MLflow's store may be a folder


def _place(value: str) -> tuple[Any, ...]:
    url = make_url(value)
    return url.get_backend_name(), url.host or url.query.get("host"), url.port, url.database


def _store_folder() -> Path:
    """Where the MLflow store is a file, its folder, else the work folder."""
    uri = mlflow.get_tracking_uri()
    database = make_url(uri).database if uri.startswith("sqlite:") else None
    return Path(database).absolute().parent if database else work_root()


def _url(storage: str) -> str:
    if storage != BESIDE:
        return storage
    folder = _store_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'sweeps.db'}"


def has_begun(config: SearchConfig) -> bool:
    """Whether there is a study of this name already."""
    return config.study in optuna.get_all_study_names(open_storage(config))


def open_storage(config: SearchConfig) -> RDBStorage:
    """The database of the studies. Raises UserError that names it where it can't be used."""
    url = _url(config.storage)
    waits = {"timeout": _SQLITE_PATIENCE_SECONDS} if url.startswith("sqlite") else {}
    open_it = partial(
        RDBStorage,
        url,
        engine_kwargs={
            "pool_pre_ping": True,
            "connect_args": waits,
        },  # trainings outlast a database's patience
        heartbeat_interval=config.heartbeat_seconds,
        grace_period=_GRACE_BEATS * config.heartbeat_seconds,
        heartbeat_stale_trial_callback=run_again,
    )
    warnings.simplefilter(
        "ignore", ExperimentalWarning
    )  # of heartbeats and of what samples beside other workers
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # a sweep says itself what became of a trial
    with _database_errors(url):
        for _ in range(_OPENINGS):
            with suppress(IntegrityError, OperationalError, ProgrammingError, StorageInternalError):
                return open_it()
            time.sleep(0.5)
        return open_it()


@contextmanager
def _database_errors(url: str) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError, RuntimeError) as error:
        if isinstance(error, ArgumentError) and not isinstance(error, NoSuchModuleError):
            raise UserError(
                f"sweep.storage '{url}' is neither '{BESIDE}' nor the URL of a database such as "
                "postgresql+psycopg2://user@host/database"
            ) from None
        raise UserError(f"sweep.storage {url} can't be used: {getattr(error, 'orig', error)}") from error
