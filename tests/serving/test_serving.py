"""The promoted router behind `mlflow models serve`, fetched from a real MLflow server: answers, refusals, and promotions."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests

from adaptf.serving import logged_model
from adaptf.serving.requests import MAX_ROWS
from adaptf.tracking import production, registry
from adaptf.tracking.store import open_store


@pytest.fixture(scope="module")
def store(serve, database, tracked) -> Iterator[str]:
    """Address of an MLflow server, which is in force."""
    server = serve(
        "server", "--workers", "1", "--backend-store-uri", f"sqlite:///{database}",
        "--artifacts-destination", (database.parent / "artifacts").as_uri(),
    )  # fmt: skip
    with tracked(server):
        yield server


def in_production(bundle: Path, name: str) -> str:
    """Logs, registers and promotes a bundle; returns the version."""
    with mlflow.start_run():
        version = registry.register(logged_model.log_router(bundle, name), name, tags={}, description="")
    production.promote(name, version)
    return version


@pytest.fixture(scope="module")
def address(serve, store, bundle, unused_port) -> str:
    """Of a scoring server for the version in production, which follows the registry."""
    version = in_production(bundle, "adaptf-router")
    settings = {"live": True, "check_seconds": 0.5, "metrics_port": unused_port}
    return serve(
        "models", "serve", "--env-manager", "local", "--model-uri", f"models:/adaptf-router/{version}",
        environment={"SERVING_MODEL_CONFIG": json.dumps(settings)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def status(address, unused_port) -> Callable[[str], requests.Response]:
    """Answer of a route of the status port."""
    return lambda route: requests.get(f"http://127.0.0.1:{unused_port}{route}", timeout=10)


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
    assert [row["version_used"] for row in answers] == [
        versions[name] for name in ("b", "unknown", "unknown", "a")
    ]
    assert [row["device_asked"] for row in answers] == ["b", None, "A", "a"]
    for row in answers:
        assert list(row["probabilities"]) == scenes
        assert row["probability"] == row["probabilities"][row["scene"]] == max(row["probabilities"].values())


def test_a_table_in_split_form_without_devices_is_answered(address, clip):
    response = posted(address, {"dataframe_split": {"columns": ["audio"], "data": [[clip]]}})
    assert response.json()["predictions"][0]["device_used"] == "unknown"


def test_a_csv_table_is_answered(address, clip):
    table = f"audio,device\n{clip},a\n{clip},\n"
    response = requests.post(
        f"{address}/invocations", data=table, headers={"Content-Type": "text/csv"}, timeout=60
    )
    assert [row["device_used"] for row in response.json()["predictions"]] == ["a", "unknown"]


def test_parameters_are_taken_from_the_body(address, clip, noise, encoded):
    body = {"dataframe_records": [{"audio": encoded(noise(64000)), "device": "a"}]}
    answers = posted(address, body | {"params": {"top_k": 2, "aggregate": "second"}}).json()["predictions"]
    assert [(row["row"], row["second"], len(row["probabilities"])) for row in answers] == [
        (0, 0.0, 2),
        (0, 1.0, 2),
    ]
    assert next(iter(answers[0]["probabilities"])) == answers[0]["scene"]


BAD_PARAMETERS = {
    "beyond the scenes": ({"top_k": 11}, "top_k should be a whole number from 0 (all scenes) to 10, got 11"),
    "negative": ({"top_k": -1}, "top_k should be a whole number from 0 (all scenes) to 10, got -1"),
    "text": ({"top_k": "two"}, "top_k"),
    "fraction": ({"top_k": 1.5}, "top_k"),
    "unknown way": ({"aggregate": "minute"}, "aggregate should be 'file' or 'second', got 'minute'"),
    "no dictionary": ([1], "must be a dictionary"),
}


@pytest.mark.parametrize(("params", "said"), BAD_PARAMETERS.values(), ids=BAD_PARAMETERS.keys())
def test_a_bad_parameter_is_a_400_that_names_it(params, said, address, clip):
    refused(posted(address, {"dataframe_records": [{"audio": clip}], "params": params}), said)


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
    "over the limit": (
        (np.zeros(8000 * 61), 8000, "FLAC"),
        "row 1: audio lasts 61.0 s by its header; at most 60 s",
    ),
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
    refused(
        posted(address, {"instances": [{"audio": clip}]}),
        "send rows as 'dataframe_records' or 'dataframe_split'",
    )


def refused(response: requests.Response, said: str) -> None:
    error = response.json()
    assert (response.status_code, error["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), response.text
    assert said in error["message"]
    assert "Traceback" not in response.text


def test_a_request_leaves_a_line_in_the_log_and_counts_in_the_metrics(address, status, clip, server_folder):
    posted(
        address,
        {"dataframe_records": [{"audio": clip, "device": "b"}, {"audio": clip, "device": "none-such"}]},
    )
    output = (server_folder / f"{address.rpartition(':')[2]}.log").read_text()
    logged = [json.loads(line) for line in output.splitlines() if line.startswith('{"time"')]
    last = [line for line in logged if line["event"] == "request"][-1]
    assert (last["status"], last["rows"], last["versions"]) == (
        "ok",
        2,
        {"adaptf-b/2": 1, "adaptf-unknown/3": 1},
    )
    metrics = status("/metrics").text
    assert 'adaptf_rows_asked_total{device="other"}' in metrics and "none-such" not in metrics
    assert status("/health").json()["ok"]


def test_what_is_promoted_is_taken_up_without_a_restart_and_a_broken_version_is_not(
    address, status, clip, bundle, make_bundle
):
    def version_for_c() -> str:
        return posted(address, {"dataframe_records": [{"audio": clip, "device": "c"}]}).json()["predictions"][
            0
        ]["version_used"]

    assert version_for_c() == "adaptf-unknown/3"
    for device in ("a", "b"):
        version = in_production(make_bundle("unknown", network_of=device), "adaptf-c")
        wait_until(lambda version=version: version_for_c() == f"adaptf-c/{version}")
    in_production(make_bundle("unknown", mel={"bands": 64, "preemphasis": 0.9}), "adaptf-c")
    wait_until(lambda: "c" in status("/version").json()["notes"])
    versions = status("/version").json()
    assert versions["devices"]["c"]["version"] == version_for_c() == "adaptf-c/2"
    assert "adaptf-c/3 cannot be taken up, adaptf-c/2 keeps answering" in versions["notes"]["c"]
    assert 'adaptf_live_not_taken_up{device="c",version="adaptf-c/3"} 1.0' in status("/metrics").text
    production.promote("adaptf-c", "1")
    wait_until(lambda: version_for_c() == "adaptf-c/1")
    assert "c" not in status("/version").json()["notes"]


def wait_until(done: Callable[[], bool], limit_seconds: float = 60.0) -> None:
    end = time.monotonic() + limit_seconds
    while not done():
        assert time.monotonic() < end, "not taken up in time"
        time.sleep(0.2)


def test_the_server_is_one_that_stages_take(store: str) -> None:
    open_store()
