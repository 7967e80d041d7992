"""A request's body -> the response, by the protocol of MLflow's scoring server and in the same bytes.

MLflow itself makes a table of pandas of the rows and one of the answer, which takes as long as the network.
"""

import json
from collections.abc import Iterable
from threading import Event

import pandas as pd
from fastapi import Response
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import CONTENT_TYPE_CSV, CONTENT_TYPE_JSON

from adaptf.serving.body import Asked, read_table
from adaptf.serving.entrance import TurnedAway
from adaptf.serving.raw_audio import OCTETS, is_audio, read_audio
from adaptf.serving.router import DeviceRouter


def score(
    router: DeviceRouter,
    body: bytearray,
    *,
    content_type: str,
    query: Iterable[tuple[str, str]],
    stop: Event,
) -> Response:
    """The answer, or what is wrong; the body is empty then.
    Raises TurnedAway for a type that is not read."""
    try:
        asked = _read(body, content_type, query)
    except MlflowException as error:
        router.monitor.turned_away("refused", error.message)
        return _refusal(error)
    finally:
        body.clear()
    try:
        rows = router.answer(asked.columns, asked.params, stop=stop)
    except Exception as error:
        return _refusal(_told(error, asked))
    return Response(json.dumps({"predictions": rows}), media_type=CONTENT_TYPE_JSON)


def _read(body: bytearray, content_type: str, query: Iterable[tuple[str, str]]) -> Asked:
    kind, _, options = content_type.replace(" ", "").lower().partition(";")
    if is_audio(kind):
        return read_audio(body, query)
    if kind in (CONTENT_TYPE_JSON, CONTENT_TYPE_CSV) and options in ("", "charset=utf-8"):
        return read_table(body, kind)
    wanted = f"{CONTENT_TYPE_JSON} or {CONTENT_TYPE_CSV}, in UTF-8, {OCTETS} or audio/..."
    message = f"the content type should be {wanted}, got {content_type[:80]!r}"
    raise TurnedAway(415, message, counted_as="refused")


def _told(error: Exception, asked: Asked) -> MlflowException:
    """What the client is told of an error, without a traceback; of a table, after MLflow's words."""
    if not isinstance(error, MlflowException):
        error = MlflowException("the router failed, and its log says why")
    if asked.is_table:
        error.message = f"Failed to predict data '{pd.DataFrame(asked.rows)}'. \nError: {error.message}"
    return error


def _refusal(error: MlflowException) -> Response:
    return Response(error.serialize_as_json(), error.get_http_status_code(), media_type=CONTENT_TYPE_JSON)
