"""The promoted router behind `serve`, fetched from a real MLflow server:
answers, refusals, promotions, limits."""

import base64
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests

from adaptf.evaluation.forward_filter import StreamCalibration
from adaptf.serving import router_model
from adaptf.serving.entrance import MAX_BODY_BYTES, MOST_REQUESTS
from adaptf.serving.requests import MAX_ROWS
from adaptf.tracking import production, registry
from adaptf.tracking.store import open_store

SENDS_WEBHOOKS = {
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(b"k" * 32).decode(),
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_CACHE_TTL": "0",  # else a new one is not known before a minute is over
}


@pytest.fixture(scope="module")
def store(serve, database, tracked) -> Iterator[str]:
    """Address of an MLflow server, which is in force."""
    server = serve(
        "server", "--workers", "1", "--backend-store-uri", f"sqlite:///{database}",
        "--artifacts-destination", (database.parent / "artifacts").as_uri(), environment=SENDS_WEBHOOKS,
    )  # fmt: skip
    with tracked(server):
        yield server


def in_production(bundle: Path, name: str) -> str:
    """Logs, registers and promotes a bundle; returns the version."""
    with mlflow.start_run():
        version = registry.register(router_model.log_router(bundle, name), name, tags={}, description="")
    production.promote(name, version)
    return version


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Where the server keeps what it serves."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def address(serve_router, store, make_bundle, kept) -> str:
    """Of a server for the version in production, which follows the registry."""
    calibration = StreamCalibration(factor=1.0, dependence=0.5, threshold=0.0)
    in_production(make_bundle("a", "b", "unknown", stream=calibration), "adaptf-router")
    options = ("--check_seconds", "0.5", "--keep", str(kept), "--shadow_share", "1")
    return serve_router(*options, ADAPTF_WEBHOOK_SECRET="s3cret")


@pytest.fixture(scope="module")
def status(address) -> Callable[[str], requests.Response]:
    """Answer of a route."""
    return lambda route: requests.get(f"{address}{route}", timeout=60)


@pytest.fixture(scope="module")
def logged(address, server_folder) -> Callable[[], list[dict]]:
    """The server's own lines so far."""

    def lines() -> list[dict]:
        output = (server_folder / f"{port(address)}.log").read_text()
        return [json.loads(line) for line in output.splitlines() if line.startswith('{"time"')]

    return lines


def port(address: str) -> str:
    return address.rpartition(":")[2]


def posted(address: str, body: dict) -> requests.Response:
    return requests.post(f"{address}/invocations", json=body, timeout=180)


@pytest.fixture(scope="module")
def clip(noise, encoded) -> str:
    return encoded(noise(32000))


@pytest.mark.slow
def test_the_server_is_one_that_stages_take(store: str) -> None:
    open_store()


def test_a_stream_is_answered_from_request_to_request(address, clip, scenes):
    def second(number: int) -> requests.Response:
        row = {"audio": clip, "device": "b", "stream": "walk", "second": number}
        params = {"aggregate": "stream", "stay_seconds": 60}
        return posted(address, {"dataframe_records": [row], "params": params})

    first, then = (second(number).json()["predictions"][0] for number in (0, 1))
    assert [(row["stream"], row["second"], row["seconds_heard"]) for row in (first, then)] == [
        ("walk", 0, 1), ("walk", 1, 2),
    ]  # fmt: skip
    assert then["scene"] == first["scene"] in scenes and then["probability"] > first["probability"]
    refused = second(1)
    assert refused.status_code == 400
    assert "second 1 of stream 'walk' was heard already" in refused.json()["message"]


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


def test_a_file_as_it_is_gets_the_answer_of_its_row_in_json(address, clip):
    by_json = posted(address, {"dataframe_records": [{"audio": clip, "device": "b"}], "params": {"top_k": 2}})
    raw = requests.post(
        f"{address}/invocations",
        params={"device": "b", "top_k": 2},
        data=base64.b64decode(clip),
        headers={"Content-Type": "application/octet-stream"},
        timeout=60,
    )
    assert raw.ok and raw.content == by_json.content


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
    "unknown way": (
        {"aggregate": "minute"},
        "aggregate should be 'file', 'second' or 'stream', got 'minute'",
    ),
    "no dictionary": ([1], "must be a dictionary"),
}


@pytest.mark.parametrize(("params", "said"), BAD_PARAMETERS.values(), ids=BAD_PARAMETERS.keys())
def test_a_bad_parameter_is_a_400_that_names_it(params, said, address, clip):
    refused(posted(address, {"dataframe_records": [{"audio": clip}], "params": params}), said)


def text(words: str) -> str:
    return base64.b64encode(words.encode()).decode()


BAD_REQUESTS = {
    "no audio column": (lambda clip: [{"device": "a"}], "no column 'audio' among ['device']"),
    "many columns": (lambda clip: [{"audio": clip, f"k{n}": 1} for n in range(512)], "unknown column 'k0'"),
    "more values than rows need": (lambda clip: [{f"k{n}": 1} for n in range(20_000)], "1 to 512 rows"),
    "values within values": (lambda clip: [{"audio": clip, "device": [[]] * 9000}], "1 to 512 rows"),
    "no record": (lambda clip: [[clip]], "send rows as 'dataframe_records' or 'dataframe_split'"),
    "unknown column": (lambda clip: [{"audio": clip, "divice": "a"}], "unknown column 'divice'"),
    "null audio": (lambda clip: [{"audio": clip}, {"audio": None}], "row 1: audio is null"),
    "empty audio": (lambda clip: [{"audio": clip}, {"audio": clip}, {"audio": ""}], "row 2: audio is empty"),
    "number for audio": (lambda clip: [{"audio": 5}], "row 0: audio is 5"),
    "broken base64": (lambda clip: [{"audio": clip[:-2]}], "is not base64"),
    "path for audio": (
        lambda clip: [{"audio": "/etc/hostname"}],
        "row 0: audio '/etc/hostname' is not base64"),
    "text for audio": (
        lambda clip: [{"audio": text("what a fine day")}],
        "row 0: audio is not readable as audio"),
    "data URI": (
        lambda clip: [{"audio": f"data:audio/wav;base64,{clip}"}],
        "row 0: audio 'data:audio/wav;base64,"),
    "list for device": (
        lambda clip: [{"audio": clip, "device": ["a"]}],
        "device should be text or null, got ['a']"),
    "number for device": (
        lambda clip: [{"audio": clip, "device": 3}],
        "row 0: device should be text or null, got 3"),
    "too many rows": (
        lambda clip: [{"audio": clip[:8]}] * (MAX_ROWS + 1),
        f"1 to {MAX_ROWS} rows, got {MAX_ROWS + 1}"),
    "no rows": (lambda clip: [], f"1 to {MAX_ROWS} rows, got 0"),
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


@pytest.mark.parametrize(
    ("kind", "body", "code", "said"),
    [
        ("application/json", b'{"dataframe_records": [', 400, "not readable as application/json"),
        (
            "application/json",
            b'{"dataframe_split": {"columns": ["audio"], "data": [[1, 2]]}}',
            400,
            "send rows as",
        ),
        ("application/json", b"[" * 8000, 400, "RecursionError"),
        ("text/csv", b'audio\n"', 400, "not readable as text/csv"),
        ("text/csv", b"audio\n" + b"a\n" * 600, 400, "1 to 512 rows, got 513"),
        ("application/vnd.apache.parquet", b"PAR1", 415, "should be application/json or text/csv"),
    ],
    ids=["cut off", "row of another length", "nested", "open quote", "too many lines", "Parquet"],
)  # fmt: skip
def test_a_body_that_cannot_be_read_is_refused(kind, body, code, said, address):
    response = requests.post(f"{address}/invocations", data=body, headers={"Content-Type": kind}, timeout=60)
    assert (response.status_code, said in response.json()["message"]) == (code, True), response.text


def test_a_body_that_is_too_large_is_not_read(address):
    with sent(address, f"Content-Length: {MAX_BODY_BYTES + 1}\r\n\r\n") as connection:
        assert connection.recv(20).startswith(b"HTTP/1.1 413")
    pieces = b"100000\r\n" + b"a" * 2**20 + b"\r\n"
    with sent(address, "Transfer-Encoding: chunked\r\n\r\n") as connection, suppress(ConnectionError):
        for _ in range(MAX_BODY_BYTES // 2**20 + 1):
            connection.sendall(pieces)
        assert connection.recv(20).startswith(b"HTTP/1.1 413")


def sent(address: str, rest: str) -> socket.socket:
    """A connection on which the head of a request was sent."""
    connection = socket.create_connection(("127.0.0.1", int(port(address))), timeout=60)
    head = "POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall((head + rest).encode())
    return connection


def test_when_the_queue_is_full_a_request_is_told_to_come_again(address, clip, status):
    body = {"dataframe_records": [{"audio": clip}]}
    with ExitStack() as open_requests:
        for _ in range(MOST_REQUESTS):
            open_requests.enter_context(sent(address, "Content-Length: 100\r\n\r\n{"))
        wait_until(lambda: posted(address, body).status_code == 503)
        assert int(posted(address, body).headers["Retry-After"]) > 0
        assert (status("/ready").status_code, status("/health").status_code) == (503, 200)
    wait_until(lambda: posted(address, body).ok)
    assert status("/ready").ok
    assert 'adaptf_requests_total{status="busy"}' in status("/metrics").text


@pytest.fixture(scope="module")
def long_request(encoded) -> dict:
    """Four minutes that compress to little: 192 kHz, eight channels."""
    audio = encoded(np.zeros((60 * 192_000, 8), dtype=np.float32), 192_000, "FLAC")
    return {"dataframe_records": [{"audio": audio}] * 4}


def test_the_work_for_a_client_that_has_gone_ends(address, long_request, logged):
    body = json.dumps(long_request)
    with sent(address, f"Content-Length: {len(body)}\r\n\r\n{body}"):
        pass
    wait_until(lambda: any(line.get("status") == "given up" for line in logged()))


def test_small_requests_that_ask_for_much_leave_memory_and_other_clients_alone(
    address, long_request, clip, server_folder
):
    many_records = {"dataframe_records": [{f"k{number}": 1} for number in range(20_000)]}
    large = {"dataframe_records": [{"audio": "A" * (MAX_BODY_BYTES - 1000)}]}
    with ThreadPoolExecutor() as clients:
        others = [clients.submit(posted, address, body) for body in [many_records, large, long_request]]
        answers = [
            posted(address, {"dataframe_records": [{"audio": clip, "device": "a"}]}) for _ in range(20)
        ]
    assert {answer.status_code for answer in answers} == {200}
    assert {other.result().status_code for other in others} <= {200, 400, 504}
    process = Path("/proc", (server_folder / f"{port(address)}.pid").read_text(), "status")
    peak_kilobytes = int(re.search(r"VmHWM:\s+(\d+)", process.read_text())[1])
    assert peak_kilobytes < 1_500_000


def test_it_is_ready_when_every_network_answers_a_built_in_clip(status):
    assert status("/ready").json() == {"ready": True}


def test_a_request_leaves_a_line_in_the_log_and_counts_in_the_metrics(address, status, clip, logged):
    posted(
        address,
        {"dataframe_records": [{"audio": clip, "device": "b"}, {"audio": clip, "device": "none-such"}]},
    )
    last = [line for line in logged() if line["event"] == "request"][-1]
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


def test_a_version_with_the_alias_shadow_answers_too_and_nobody_who_asks_gets_its_answer(
    address, status, clip, logged
):
    mlflow.MlflowClient().set_registered_model_alias("adaptf-c", "shadow", "2")
    asked = {"dataframe_records": [{"audio": clip, "device": "c"}]}

    def told_of_c() -> dict:
        assert posted(address, asked).json()["predictions"][0]["version_used"] == "adaptf-c/1"
        return status("/shadow").json()["devices"].get("c", {"clips": 0})

    wait_until(lambda: told_of_c()["clips"] >= 3)
    told = told_of_c()
    assert (told["version"], told["production"]) == ("adaptf-c/2", "adaptf-c/1")
    assert told["errors"] == 0 and told["clips"] == sum(
        figures["clips"] for figures in told["scenes"].values()
    )
    assert 'adaptf_shadow_model{device="c",form="' in status("/metrics").text
    assert {"shadow"} < {line["event"] for line in logged()}
    mlflow.MlflowClient().delete_registered_model_alias("adaptf-c", "shadow")
    wait_until(lambda: not status("/shadow").json()["devices"])


def test_the_webhook_of_the_registry_has_it_looked_at_and_one_with_another_secret_does_not(
    address, store, logged
):
    client, events = mlflow.MlflowClient(), ["model_version_alias.created", "model_version_alias.deleted"]
    hook = client.create_webhook("router", f"{address}/registry-changed", events, secret="s3cret")
    client.set_registered_model_alias("adaptf-c", "hello", "1")
    wait_until(lambda: any(line["event"] == "webhook" for line in logged()))
    (line,) = [line for line in logged() if line["event"] == "webhook"]
    assert line["message"] == "the registry has changed, and is looked at now"
    assert client.test_webhook(hook.webhook_id).response_status == 200
    client.update_webhook(hook.webhook_id, secret="guessed")
    assert client.test_webhook(hook.webhook_id).response_status == 401
    refused = [line["message"] for line in logged() if line["event"] == "webhook"][-1]
    assert refused == "refused: the signature is not that of this body and secret"
    client.delete_webhook(hook.webhook_id)


def test_a_restart_without_the_registry_serves_what_was_kept_and_says_so(
    address, store, serve_router, server_folder, kept, clip
):
    for server in (address, store):
        os.killpg(int((server_folder / f"{port(server)}.pid").read_text()), signal.SIGKILL)
    again = serve_router("--keep", str(kept), MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    rows = [{"audio": clip, "device": device} for device in "abc"]
    answers = posted(again, {"dataframe_records": rows}).json()["predictions"]
    assert [row["version_used"] for row in answers] == ["adaptf-a/1", "adaptf-b/2", "adaptf-c/1"]
    told = requests.get(f"{again}/version", timeout=60).json()
    assert told["kept"] == {"adaptf-router": "1", "adaptf-c": "1"} and told["router"] == "adaptf-router/1"
    metrics = requests.get(f"{again}/metrics", timeout=60).text
    assert 'adaptf_kept{name="adaptf-c",version="1"} 1.0' in metrics
    output = (server_folder / f"{port(again)}.log").read_text()
    assert '"version": "adaptf-router/1", "message": "starts from its copy on disk' in output
    assert "adaptf-c/1 comes from its copy on disk" in output


def wait_until(done: Callable[[], bool], limit_seconds: float = 60.0) -> None:
    end = time.monotonic() + limit_seconds
    while not done():
        assert time.monotonic() < end, "not taken up in time"
        time.sleep(0.2)
