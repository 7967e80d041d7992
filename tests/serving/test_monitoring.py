"""What a router says about its requests and itself: log lines, metrics, health, versions."""

import json
import logging
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from prometheus_client import generate_latest

import adaptf
from adaptf.compression.runtime import OpenVinoNetwork
from adaptf.errors import UserError
from adaptf.serving import router as router_module
from adaptf.serving.router import DeviceRouter
from adaptf.serving.settings import Settings, read_settings
from adaptf.serving.status import health, versions


@pytest.fixture
def model(bundle) -> DeviceRouter:
    return loaded(bundle)


def loaded(bundle, **config) -> DeviceRouter:
    model = DeviceRouter()
    model.load_context(SimpleNamespace(artifacts={"bundle": str(bundle)}, model_config=config))
    return model


@pytest.fixture
def rows(noise, encoded) -> pd.DataFrame:
    audio = [encoded(noise(length)) for length in (64000, 32000, 16000)]
    return pd.DataFrame({"audio": audio, "device": ["a", "nobody-knows-it", None]})


def lines(caplog, event: str) -> list[dict]:
    return [line for record in caplog.records if (line := json.loads(record.getMessage()))["event"] == event]


def test_a_request_is_one_line_of_json_without_audio(model, rows, caplog):
    with caplog.at_level(logging.INFO, "adaptf.router"):
        response = model.predict(None, rows)
    (line,) = lines(caplog, "request")
    assert line["status"] == "ok" and line["request"] == 1 and line["ms"] > 0
    assert (line["rows"], line["clips"], line["audio_seconds"]) == (3, 4, 3.5)
    assert line["devices"] == [
        {"asked": "a", "used": "a", "rows": 1},
        {"asked": "nobody-knows-it", "used": "unknown", "rows": 1},
        {"asked": None, "used": "unknown", "rows": 1},
    ]
    assert line["versions"] == {"adaptf-a/1": 1, "adaptf-unknown/3": 2}
    assert line["scenes"] == response.scene.value_counts().to_dict()
    assert rows.audio[0][:30] not in caplog.text


def test_a_refused_request_is_logged_with_the_reason_and_a_failed_one_as_an_error(
    model, rows, caplog, monkeypatch
):
    with caplog.at_level(logging.INFO, "adaptf.router"):
        with pytest.raises(MlflowException):
            model.predict(None, rows, {"top_k": 99})
        monkeypatch.setattr(router_module, "classify", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.predict(None, rows)
    refused, failed = lines(caplog, "request")
    assert (refused["status"], failed["status"], failed["level"]) == ("refused", "error", "ERROR")
    assert "top_k should be" in refused["message"] and "division by zero" in failed["message"]
    assert metric(model, "adaptf_requests_total", status="refused") == 1
    assert metric(model, "adaptf_requests_total", status="error") == 1


def metric(model: DeviceRouter, name: str, **labels: str) -> float | None:
    return model.monitor.metrics.get_sample_value(name, labels)


def test_a_form_that_says_something_else_on_this_processor_is_told_by_log_version_and_metric(
    bundle, caplog, monkeypatch
):
    right = OpenVinoNetwork.__call__
    monkeypatch.setattr(OpenVinoNetwork, "__call__", lambda self, logmel: -right(self, logmel))
    with caplog.at_level(logging.WARNING, "adaptf.router"):
        model = loaded(bundle)
    assert "says something else on this processor" in caplog.text
    told = versions(model.follower)["devices"]["a"]
    assert told["form"] == "ONNX Runtime" and "says something else on this processor" in told["why"]
    assert metric(model, "adaptf_form_refused", device="a", version="adaptf-a/1") == pytest.approx(2, abs=0.5)


def test_metrics_count_rows_and_clips_by_device_and_scene(model, rows):
    response = model.predict(None, rows)
    model.predict(None, rows)
    assert metric(model, "adaptf_requests_total", status="ok") == 2
    assert metric(model, "adaptf_request_seconds_count") == 2
    assert metric(model, "adaptf_rows_total", device="a", scene=response.scene[0]) == 2
    assert metric(model, "adaptf_audio_seconds_total") == 7
    text = generate_latest(model.monitor.metrics).decode()
    assert sum(map(float, re.findall(r"^adaptf_clips_total\{.*\} (.*)$", text, flags=re.MULTILINE))) == 8


def test_names_that_clients_make_up_do_not_fill_the_metrics(model, rows):
    for number in range(5):
        model.predict(None, rows.assign(device=f"made-up-{number}"))
    assert "made-up" not in generate_latest(model.monitor.metrics).decode()
    assert metric(model, "adaptf_rows_asked_total", device="other") == 15
    model.predict(None, rows)
    assert [metric(model, "adaptf_rows_asked_total", device=name) for name in ("a", "none", "other")] == [
        1,
        1,
        16,
    ]


def test_the_models_that_answer_are_metrics(model):
    assert metric(model, "adaptf_model", device="a", version="adaptf-a/1", form="OpenVINO") == 1
    assert metric(model, "adaptf_model", device="b", version="adaptf-b/2", form="ONNX Runtime") == 1


def test_the_log_says_once_for_which_devices_a_slower_form_serves_and_why(bundle, caplog):
    loaded(bundle)
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    why = json.loads(line.getMessage())["why"]
    assert list(why) == ["b", "unknown"] and why["b"] == "there is no b.xml and no b.bin beside b.pt2"


def test_health_and_versions_are_told(model):
    assert health(model.follower) == {"ok": True, "live": False, "last_check": None, "registry": "not asked"}
    told = versions(model.follower)
    assert told["adaptf"] == adaptf.__version__
    assert told["devices"]["a"] == {"version": "adaptf-a/1", "form": "OpenVINO", "why": ""}
    assert "there is no b.xml" in told["devices"]["b"]["why"]


def test_a_router_whose_following_has_ended_is_not_healthy(model):
    model.follower.in_production = dict
    model.follower.start()
    assert health(model.follower)["ok"]
    model.follower.stop()
    model.follower.check_seconds = 0
    end = time.monotonic() + 10
    while model.follower.is_alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert not health(model.follower)["ok"]


def test_settings_of_a_model_that_was_registered_before_are_taken():
    assert read_settings({"live": True, "metrics_port": 5002, "metrics_host": "0.0.0.0"}) == Settings(
        live=True
    )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"live": "yes"}, "live should be true or false, got 'yes'"),
        ({"live": 1}, "live should be true or false, got 1"),
        ({"device_from_sound": "yes"}, "device_from_sound should be true or false, got 'yes'"),
        ({"check_seconds": 0}, "check_seconds should be a number of seconds from 0.1 to 86400, got 0"),
        ({"check_seconds": float("nan")}, "got nan"),
        ({"check_seconds": "10"}, "got '10'"),
        ({"port": 1}, "port should not be there: no setting has this name, got 1"),
    ],
)
def test_a_wrong_setting_is_refused_when_the_model_is_loaded(config, said):
    with pytest.raises(UserError, match=f"model_config: .*{said}"):
        read_settings(config)


def test_a_library_that_sets_up_the_root_logger_does_not_have_lines_come_twice() -> None:
    script = """
import logging
from adaptf.serving.log_lines import log, show_log
show_log()
logging.warning("as a library does")
log("hello")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.count('"event": "hello"') == 1
