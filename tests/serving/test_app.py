"""The app around a router that takes as long as it is told:
what nobody waits for ends, and frees its place."""

import asyncio
import json
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT

from adaptf.serving.app import make_app
from adaptf.serving.requests import GivenUp

BODY = json.dumps({"dataframe_records": [{"audio": "AAAA"}]}).encode()


class EndlessRouter:
    """Works until it is told to stop."""

    def __init__(self) -> None:
        self.ended, self.counted = Event(), []
        self.monitor = SimpleNamespace(turned_away=lambda status, message: self.counted.append(status))

    def answer(self, table: Any, params: Any, *, stop: Event) -> None:
        assert stop.wait(60)
        self.ended.set()
        raise GivenUp


@pytest.fixture
def router() -> EndlessRouter:
    return EndlessRouter()


def asked(router: EndlessRouter, *messages: dict[str, Any]) -> int:
    """The status of a request of which the server gets these messages, and then nothing more."""
    coming, answers = list(messages), []

    async def receive() -> dict[str, Any]:
        return coming.pop(0) if coming else await asyncio.Event().wait()

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/invocations", "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    asyncio.run(make_app(router)(scope, receive, send))
    return answers[0]["status"]


def test_the_work_ends_when_its_time_is_over(router, monkeypatch):
    monkeypatch.setenv(MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.name, "1")
    assert asked(router, {"type": "http.request", "body": BODY}) == 504
    assert router.ended.is_set()


def test_the_work_ends_when_its_client_has_gone(router):
    asked(router, {"type": "http.request", "body": BODY}, {"type": "http.disconnect"})
    assert router.ended.wait(60)


def test_a_body_that_never_ends_is_given_up(router, monkeypatch):
    monkeypatch.setenv(MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.name, "1")
    assert asked(router, {"type": "http.request", "body": BODY[:5], "more_body": True}) == 504
    assert router.counted == ["given up"]
