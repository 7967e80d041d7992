"""A tracking server that is away: whether it answers, and writing that waits until it does."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

import mlflow
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from mlflow.utils.uri import is_http_uri
from requests import Response

from adaptf.errors import UserError
from adaptf.tracking.refusals import refusal

PROBE_SECONDS, SAY_SECONDS = 2.0, 60.0
"""How often it is asked, and how often people are told that it does not answer."""
_ANY_EXPERIMENT = "/api/2.0/mlflow/experiments/search"
_ANSWER_SECONDS = 10
_DIRECTLY = ("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD")
_T = TypeVar("_T")


def through_the_server() -> None:
    """Artifacts go through the tracking server, where the user does not say otherwise. MLflow's client goes
    to the object store itself as soon as a server has one, and hangs where only the server reaches it.
    """
    for name in _DIRECTLY:
        os.environ.setdefault(name, "false")


def answers() -> bool:
    """Whether the tracking store answers right now:
    MLflow's own requests find out after retrying for four minutes.

    Raises ImportError where what it is read with is not installed: no waiting helps against that.
    """
    uri = mlflow.get_tracking_uri()
    try:
        if is_http_uri(uri):
            ask_for_any_experiment(uri, _ANSWER_SECONDS)
        else:
            mlflow.MlflowClient().search_experiments(max_results=1)
    except ImportError:
        raise
    except Exception:  # of requests, of a database's driver, or MLflow's
        return False
    return True


def ask_for_any_experiment(uri: str, seconds: float | tuple[float, float], **options: object) -> Response:
    """The answer of a server to what it answers whoever may ask it anything; otherwise as `ask`."""
    return ask(uri, _ANY_EXPERIMENT, "POST", seconds, json={"max_results": 1}, **options)


def ask(
    uri: str, path: str, method: str, seconds: float | tuple[float, float], **options: object
) -> Response:
    """What a server answers to one question, asked once;
    `seconds` for the answer, or for a connection and for the answer.

    Raises MlflowException, or OSError as requests does, where nothing comes.
    """
    creds = get_default_host_creds(uri)
    answer: Response = http_request(creds, path, method, max_retries=0, timeout=seconds, **options)
    return answer


def patiently(write: Callable[[], _T], *, what: str) -> _T:
    """What `write` returns. It is done again where the server was away in between,
    so it may leave twice what it leaves once.

    Raises its error where the server is there, and at once UserErrors and what a server refuses.
    `what` says what waits.
    """
    refused = False
    while True:
        wait_for_answer(what)
        try:
            return write()
        except UserError:
            raise
        except Exception as error:
            if refusal(error):
                raise
            there = answers()
            if there and refused:
                raise
            refused = there  # or it is back already: a second failure tells


def wait_for_answer(what: str) -> None:
    """Says what waits, at once and every minute."""
    begun, next_word = time.monotonic(), 0.0
    while not answers():
        if (waited := time.monotonic() - begun) >= next_word:
            since = f" since {waited / 60:.0f} min" if next_word else ""
            print(
                f"The tracking server does not answer{since}: {what} waits for it (Ctrl-C ends that)",
                flush=True,
            )
            next_word = waited + SAY_SECONDS
        time.sleep(PROBE_SECONDS)
