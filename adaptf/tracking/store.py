"""The MLflow store, asked once before any work:
whether it answers, takes these credentials and is new enough."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import mlflow
import sqlalchemy
from alembic.util import CommandError
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.utils.uri import is_http_uri
from requests import Response
from sqlalchemy.engine import URL

from adaptf.errors import UserError
from adaptf.files import writable_folder
from adaptf.tracking.refusals import CERTIFICATE_HINT, cause, of_answer, shortly
from adaptf.tracking.runs import use_default_store
from adaptf.tracking.server import ask, ask_for_any_experiment, through_the_server

_WAIT_SECONDS = (10, 60)
"""For a connection, and for the answer.
MLflow's own requests try again for four minutes, its database for as long."""
_OLDEST = 3
_AUTHORITY = "MLFLOW_TRACKING_SERVER_CERT_PATH"
_ADDRESS = "give its address in MLFLOW_TRACKING_URI as a browser opens it, without what follows a #"


def open_store() -> None:
    """Makes sure that the store of this process can be used. Raises UserError that says what it lacks."""
    use_default_store()
    through_the_server()
    tracking = mlflow.get_tracking_uri()
    for uri in dict.fromkeys((tracking, mlflow.get_registry_uri())):
        if is_http_uri(uri):
            _check_server(uri)
        elif uri.startswith(tuple(DATABASE_ENGINES)):
            _check_database(uri)
    if not is_http_uri(tracking):
        try:
            mlflow.MlflowClient().search_experiments(max_results=1)
        except (MlflowException, sqlalchemy.exc.SQLAlchemyError, CommandError, ImportError, OSError) as error:
            raise UserError(f"the MLflow store {tracking} can't be used: {error}") from error


def _check_server(uri: str) -> None:
    if uri.startswith("https:") and os.environ.get(_AUTHORITY) == "":
        raise UserError(
            f"{_AUTHORITY} is set and empty, with which MLflow would trust whoever answers at {uri}: name "
            "the file of the certificate there, or unset it where a public authority has signed that"
        )
    answer = _answer(uri, lambda: ask_for_any_experiment(uri, _WAIT_SECONDS, raise_on_status=False))
    if answer.status_code != 200 or "json" not in answer.headers.get("Content-Type", ""):
        raise UserError(f"the MLflow server {uri} {_refusal(answer)}")
    version = re.match(
        r"(\d+)\.[\w.]+$",
        _answer(uri, lambda: ask(uri, "/version", "GET", _WAIT_SECONDS, raise_on_status=False)).text.strip(),
    )
    if version and int(version[1]) < _OLDEST:
        raise UserError(
            f"the MLflow server {uri} is MLflow {version[0]}, which knows no logged models: adaptf "
            f"needs MLflow {_OLDEST} or later there, as it has it here ({mlflow.__version__})"
        )


def _answer(uri: str, question: Callable[[], Response]) -> Response:
    """Raises UserError where none comes."""
    try:
        return question()
    except (MlflowException, OSError) as error:  # OSError: those of requests
        raise UserError(
            f"the MLflow server {uri} does not answer ({cause(error)}): {_hint(error)}"
        ) from error


def _refusal(answer: Response) -> str:
    """What an answer other than the expected one means for a user."""
    if refused := of_answer(answer):
        return refused
    status = answer.status_code
    if status >= 500:
        return (
            "is not well, or what stands in front of it does not reach it "
            f"(it answers {status}: {shortly(answer.text)})"
        )
    return f"is none: the address answers {status} where an MLflow server lists experiments; {_ADDRESS}"


def _hint(error: BaseException) -> str:
    if "certificate" in str(error).lower():
        return CERTIFICATE_HINT[0].lower() + CERTIFICATE_HINT[1:]
    return f"start it, or {_ADDRESS}"


def _check_database(uri: str) -> None:
    """Raises UserError where it can't be connected to;
    a database of SQLite in a folder that is not there is made."""
    try:
        url = sqlalchemy.make_url(uri)
        if url.get_backend_name() == "sqlite":
            _check_sqlite(url)
        wait = (
            {"connect_timeout": _WAIT_SECONDS[0]} if url.get_backend_name() in ("postgresql", "mysql") else {}
        )
        engine = sqlalchemy.create_engine(url, connect_args=wait)
        sqlalchemy.inspect(engine).get_table_names()
        engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        said = str(getattr(error, "orig", error)).strip()
        raise UserError(f"the MLflow store {uri} can't be opened: {said}") from error


def _check_sqlite(url: URL) -> None:
    if not url.database:
        return
    path = Path(url.database)
    writable_folder(path.parent, what=f"the folder of the MLflow store {url}")
    if path.exists() and not os.access(path, os.W_OK):
        raise UserError(f"the MLflow store {url} can't be written to: it is another's file, or read-only")
