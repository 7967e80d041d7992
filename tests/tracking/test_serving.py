"""The promoted router behind `mlflow models serve`, fetched from a real MLflow server: answers and refusals."""

import base64
from collections.abc import Iterator

import mlflow
import numpy as np
import pytest
import requests

from adaptf.tracking import registry
from adaptf.tracking.requests import MAX_ROWS


@pytest.fixture(scope="module")
def address(serve, database, tracked, bundle) -> Iterator[str]:
    """Of a scoring server for the version in production."""
    folder = database.parent
    server = serve(
        "server", "--workers", "1", "--backend-store-uri", f"sqlite:///{database}",
        "--artifacts-destination", (folder / "artifacts").as_uri(),
    )  # fmt: skip
    with tracked(server):
        with mlflow.start_run():
            uri = registry.log_router(bundle, "adaptf-router")
        registry.promote("adaptf-router", registry.register(uri, "adaptf-router", tags={}, description="three devices"))
        version = registry.resolve_production("adaptf-router")
        yield serve("models", "serve", "--env-manager", "local", "--model-uri", f"models:/adaptf-router/{version}")


def posted(address: str, body: dict) -> requests.Response:
    return requests.post(f"{address}/invocations", json=body, timeout=60)


@pytest.fixture(scope="module")
def clip(noise, encoded) -> str:
    return encoded(noise(32000))


def test_rows_of_several_devices_are_answered_in_order(address, clip, noise, encoded, versions, scenes):
    rows = [
        {"audio": clip, "device": "b"},
        {"audio": encoded(noise(44100 * 3), 44100, "FLAC"), "device": None},
        {"audio": clip, "device": "A"},
        {"audio": encoded(noise(8000), 16000, "OGG"), "device": "a"},
    ]
    response = posted(address, {"dataframe_records": rows})
    assert response.status_code == 200, response.text
    answers = response.json()["predictions"]
    assert [row["version_used"] for row in answers] == [versions[name] for name in ("b", "unknown", "unknown", "a")]
    assert [row["device_asked"] for row in answers] == ["b", None, "A", "a"]
    for row in answers:
        assert list(row["probabilities"]) == scenes
        assert row["probability"] == row["probabilities"][row["scene"]] == max(row["probabilities"].values())


def test_a_table_in_split_form_without_devices_is_answered(address, clip):
    response = posted(address, {"dataframe_split": {"columns": ["audio"], "data": [[clip]]}})
    assert response.json()["predictions"][0]["device_used"] == "unknown"


def test_a_csv_table_is_answered(address, clip):
    table = f"audio,device\n{clip},a\n{clip},\n"
    response = requests.post(f"{address}/invocations", data=table, headers={"Content-Type": "text/csv"}, timeout=60)
    assert [row["device_used"] for row in response.json()["predictions"]] == ["a", "unknown"]


def text(words: str) -> str:
    return base64.b64encode(words.encode()).decode()


BAD_REQUESTS = {
    "no audio column": (lambda clip: [{"device": "a"}], "no column 'audio' among ['device']"),
    "unknown column": (lambda clip: [{"audio": clip, "divice": "a"}], "unknown column 'divice'"),
    "null audio": (lambda clip: [{"audio": clip}, {"audio": None}], "row 1: audio is null"),
    "empty audio": (lambda clip: [{"audio": clip}, {"audio": clip}, {"audio": ""}], "row 2: audio is empty"),
    "number for audio": (lambda clip: [{"audio": 5}], "row 0: audio is 5"),
    "broken base64": (lambda clip: [{"audio": clip[:-2]}], "is not base64"),
    "path for audio": (lambda clip: [{"audio": "/etc/hostname"}], "row 0: audio '/etc/hostname' is not base64"),
    "text for audio": (lambda clip: [{"audio": text("what a fine day")}], "row 0: audio is not readable as audio"),
    "data URI": (lambda clip: [{"audio": f"data:audio/wav;base64,{clip}"}], "row 0: audio 'data:audio/wav;base64,"),
    "list for device": (lambda clip: [{"audio": clip, "device": ["a"]}], "device should be text or null, got ['a']"),
    "number for device": (lambda clip: [{"audio": clip, "device": 3}], "row 0: device should be text or null, got 3"),
    "too many rows": (lambda clip: [{"audio": clip[:8]}] * (MAX_ROWS + 1), f"1 to {MAX_ROWS} rows, got {MAX_ROWS + 1}"),
    "no rows": (lambda clip: [], "no column 'audio'"),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "said"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_a_bad_request_is_a_400_that_says_what_is_wrong(rows, said, address, clip):
    refused(posted(address, {"dataframe_records": rows(clip)}), said)


BAD_AUDIO = {
    "over the limit": ((np.zeros(8000 * 61), 8000, "FLAC"), "row 1: audio lasts 61.0 s by its header; at most 60 s"),
    "no samples": ((np.zeros(0), 8000, "WAV"), "row 1: the audio has no samples"),
    "another format": ((np.zeros(8000), 8000, "AIFF"), "row 1: audio is in the format AIFF"),
    "not scaled": (
        (np.full(8000, 3e4), 32000, "WAV", "FLOAT"),
        "row 1: audio has samples up to 30000; full scale is 1",
    ),
    "not numbers": (
        (np.full(8000, np.nan), 32000, "WAV", "FLOAT"),
        "row 1: the audio holds values that are not numbers",
    ),
}


@pytest.mark.parametrize(("audio", "said"), BAD_AUDIO.values(), ids=BAD_AUDIO.keys())
def test_bad_audio_is_a_400_that_names_its_row(audio, said, address, clip, encoded):
    refused(posted(address, {"dataframe_records": [{"audio": clip}, {"audio": encoded(*audio)}]}), said)


def test_a_body_in_another_form_is_a_400_that_names_the_right_ones(address, clip):
    refused(posted(address, {"instances": [{"audio": clip}]}), "send rows as 'dataframe_records' or 'dataframe_split'")


def refused(response: requests.Response, said: str) -> None:
    error = response.json()
    assert (response.status_code, error["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), response.text
    assert said in error["message"]
    assert "Traceback" not in response.text
