"""Bodies of requests -> responses: in the bytes of MLflow's own scoring; and audio that comes as it is."""

import base64
import json
from collections.abc import Callable
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi import Response
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from adaptf.evaluation.forward_filter import StreamCalibration
from adaptf.serving.body import read_table
from adaptf.serving.entrance import TurnedAway
from adaptf.serving.local import local_router
from adaptf.serving.requests import read_base64
from adaptf.serving.router import DeviceRouter
from adaptf.serving.scoring import score

JSON, OCTETS = "application/json", "application/octet-stream"


@pytest.fixture(scope="module")
def router(make_bundle) -> DeviceRouter:
    calibration = StreamCalibration(factor=1.0, dependence=0.5, threshold=0.5)
    return local_router(make_bundle("a", "b", "unknown", stream=calibration))


@pytest.fixture(scope="module")
def clip(noise, encoded) -> str:
    return encoded(noise(32000))


def scored(router: DeviceRouter, body: bytes, kind: str = JSON, query: tuple[Any, ...] = ()) -> Response:
    return score(router, bytearray(body), content_type=kind, query=query, stop=Event())


class ByTables:
    """The router as MLflow calls a model: with a table, for a table."""

    metadata = None

    def __init__(self, router: DeviceRouter) -> None:
        self.router = router

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        return self.router.predict(None, data, params)


def scored_by_mlflow(router: DeviceRouter, body: bytes) -> tuple[int, bytes]:
    try:
        answer = scoring_server.invocations(body, JSON, ByTables(router), None)
    except MlflowException as error:
        return error.get_http_status_code(), error.serialize_as_json().encode()
    return answer.status, answer.response.encode()


def records(*rows: dict[str, Any], **params: Any) -> dict[str, Any]:
    return {"dataframe_records": list(rows)} | ({"params": params} if params else {})


BODIES: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "one row": lambda clip, long: records({"audio": clip, "device": "a"}),
    "several devices": lambda clip, long: records(
        {"audio": clip, "device": "b"}, {"audio": long, "device": None}, {"audio": clip, "device": "Küche"}
    ),
    "a row without its device": lambda clip, long: records({"audio": clip, "device": "b"}, {"audio": clip}),
    "split": lambda clip, long: {
        "dataframe_split": {"columns": ["device", "audio"], "data": [["a", clip], [None, long]]}
    },
    "the best scenes": lambda clip, long: records({"audio": clip}, top_k=3),
    "seconds": lambda clip, long: records(
        {"audio": clip}, {"audio": long, "device": "a"}, aggregate="second"
    ),
    "bad rows as rows": lambda clip, long: records(
        {"audio": "AAAA", "device": "a"}, {"audio": clip}, {"audio": None}, {"audio": ""}, on_error="row"
    ),
    "bad rows among seconds": lambda clip, long: records(
        {"audio": "?"}, {"audio": long}, on_error="row", aggregate="second"
    ),
    "a stream": lambda clip, long: records(
        {"audio": long, "device": "b", "stream": "kitchen", "second": 0},
        {"audio": clip, "device": "b", "stream": "kitchen", "second": 3},
        aggregate="stream",
        stay_seconds=60,
    ),
    "a bad row": lambda clip, long: records({"audio": clip, "device": "a"}, {"audio": f"{clip[:-3]}?"}),
    "a bad parameter": lambda clip, long: records({"audio": clip, "device": "a"}, top_k=11),
    "a stream that is not known": lambda clip, long: records(
        {"audio": clip, "device": "b", "stream": "cellar", "second": 7}, aggregate="stream"
    ),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_response_has_the_bytes_that_mlflow_makes_of_tables(body, router, clip, noise, encoded) -> None:
    content = json.dumps(body(clip, encoded(noise(44100 * 3), 44100, "FLAC"))).encode()
    response = scored(router, content)
    assert (response.status_code, response.body) == scored_by_mlflow(router, content)
    assert response.media_type == JSON


def test_what_json_does_not_know_is_read_as_mlflow_reads_it(router, clip) -> None:
    content = b'{"dataframe_records": [{"audio": "%s", "device": NaN}]}' % clip.encode()
    response = scored(router, content)
    assert (response.status_code, response.body) == scored_by_mlflow(router, content)
    assert json.loads(response.body)["predictions"][0]["device_asked"] is None


@given(st.text(alphabet="AZaz09+/=-_ \n?\u00e9", max_size=12))
def test_base64_is_read_as_python_reads_it(text: str) -> None:
    (value,) = read_table(json.dumps(records({"audio": text})).encode(), JSON).columns["audio"]
    if isinstance(value, bytes):
        assert value == read_base64(text).getvalue()
    else:
        assert value == text


def told(response: Response) -> str:
    return json.loads(response.body)["message"]


@pytest.mark.parametrize(
    ("file_format", "kind"),
    [("WAV", OCTETS), ("WAV", "audio/wav"), ("FLAC", "audio/flac"), ("OGG", "audio/ogg; codecs=vorbis"),
     ("MP3", "audio/mpeg")],
)  # fmt: skip
def test_audio_as_it_is_gets_the_answer_of_its_row_in_json(file_format, kind, router, noise, encoded) -> None:
    file = encoded(noise(44100 * 2), 44100, file_format)
    by_json = scored(router, json.dumps(records({"audio": file, "device": "b"}, top_k=2)).encode())
    raw = scored(router, base64.b64decode(file), kind, (("device", "b"), ("top_k", "2")))
    assert raw.status_code == 200 and raw.body == by_json.body


def test_audio_as_it_is_may_be_of_a_stream_or_name_no_device(router, clip) -> None:
    place = {"stream": "hall", "second": 0}
    params = {"aggregate": "stream", "stay_seconds": 60.5}
    by_json = scored(router, json.dumps(records({"audio": clip} | place, **params)).encode())
    query = tuple((name, str(value)) for name, value in (place | params).items())
    assert scored(router, base64.b64decode(clip), OCTETS, query).body == by_json.body
    assert json.loads(by_json.body)["predictions"][0]["device_asked"] is None


BAD_QUERIES = {
    "unknown": (
        [("divice", "a")],
        "unknown parameter 'divice'; beside the audio there may be device",
    ),
    "audio": ([("audio", "/etc/hostname")], "unknown parameter 'audio'"),
    "twice": ([("device", "a"), ("device", "b")], "'device' stands twice in the query"),
    "no number": ([("top_k", "two")], "top_k should be a whole number from 0 (all scenes) to 10, got 'two'"),
    "not finite": ([("stay_seconds", "nan")], "stay_seconds should be from 1 to 86400, got nan"),
    "a stream's alone": ([("second", "3")], "column 'second' is for aggregate='stream'"),
}


@pytest.mark.parametrize(("query", "said"), BAD_QUERIES.values(), ids=BAD_QUERIES.keys())
def test_a_wrong_query_beside_audio_is_a_400_that_names_it(query, said, router, clip) -> None:
    response = scored(router, base64.b64decode(clip), OCTETS, query)
    assert response.status_code == 400 and said in told(response)


def test_what_is_wrong_with_audio_as_it_is_is_said_without_its_bytes(router, encoded) -> None:
    long = base64.b64decode(encoded(np.zeros(8000 * 61), 8000, "FLAC"))
    for content, said in ((b"", "row 0: audio is empty"), (b"RIFF", "row 0: audio is not readable as audio"),
                          (long, "row 0: audio lasts 61.0 s by its header; at most 60 s")):  # fmt: skip
        response = scored(router, content, OCTETS)
        assert response.status_code == 400 and told(response).startswith(said)


def test_another_type_is_turned_away_with_those_that_are_read(router) -> None:
    with pytest.raises(TurnedAway, match="application/json or text/csv, in UTF-8, application/octet-stream"):
        scored(router, b"", "image/png")


def test_a_request_that_fails_is_told_without_a_traceback(router, clip, monkeypatch) -> None:
    def broken(*given: Any, **named: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(DeviceRouter, "answer", broken)
    response = scored(router, json.dumps(records({"audio": clip})).encode())
    assert response.status_code == 500 and told(response).endswith("the router failed, and its log says why")
    assert b"secret" not in response.body
