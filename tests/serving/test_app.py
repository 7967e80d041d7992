"""The app around a router that takes as long as it is told:
what nobody waits for ends, and frees its place."""

import asyncio
import json
from threading import Event, Semaphore
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT

from adaptf.serving import app as served
from adaptf.serving import entrance
from adaptf.serving.app import make_app
from adaptf.serving.entrance import REQUESTS_AT_ONCE
from adaptf.serving.requests import GivenUp

BODY = json.dumps({"dataframe_records": [{"audio": "AAAA"}]}).encode()


class EndlessRouter:
    """Works until it is told to stop."""

    def __init__(self) -> None:
        self.ended, self.counted = Event(), []
        self.monitor = SimpleNamespace(turned_away=lambda status, message: self.counted.append(status))
        self.begun, self.clip_answered, self.trials = Semaphore(0), Event(), 0

    def answer(self, table: Any, params: Any, *, stop: Event) -> None:
        self.begun.release()
        assert stop.wait(60)
        self.ended.set()
        raise GivenUp

    def try_out(self) -> None:
        self.trials += 1
        assert self.clip_answered.wait(60)


@pytest.fixture
def router() -> EndlessRouter:
    return EndlessRouter()


async def ask(app: Any, path: str, *messages: dict[str, Any]) -> int:
    """The status of a request of which the server gets these messages, and then nothing more."""
    coming, answers = list(messages), []

    async def receive() -> dict[str, Any]:
        return coming.pop(0) if coming else await asyncio.Event().wait()

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    scope = {
        "type": "http", "method": "POST" if messages else "GET", "path": path, "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    await app(scope, receive, send)
    return answers[0]["status"]


def asked(router: EndlessRouter, *messages: dict[str, Any]) -> int:
    return asyncio.run(ask(make_app(router), "/invocations", *messages))


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


def test_it_is_not_ready_while_nothing_is_answered_however_often_it_is_asked(router, monkeypatch):
    async def twice_then_answered() -> list[int]:
        app = make_app(router)
        while_it_hangs = [await ask(app, "/ready"), await ask(app, "/ready")]
        router.clip_answered.set()
        return [*while_it_hangs, await ask(app, "/ready")]

    monkeypatch.setattr(served, "READY_SECONDS", 0.1)
    assert asyncio.run(twice_then_answered()) == [503, 503, 200]
    assert router.trials == 1


def test_it_is_not_ready_while_every_worker_hangs(router, monkeypatch):
    async def beside_hanging_requests() -> tuple[int, int]:
        app, body = make_app(router), {"type": "http.request", "body": BODY}
        hanging = [asyncio.create_task(ask(app, "/invocations", body)) for _ in range(REQUESTS_AT_ONCE)]
        for _ in hanging:
            await asyncio.to_thread(router.begun.acquire)
        while_they_hang = await ask(app, "/ready")
        await asyncio.wait(hanging)
        return while_they_hang, await ask(app, "/ready")

    router.clip_answered.set()
    monkeypatch.setenv(MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.name, "3")
    monkeypatch.setattr(served, "READY_SECONDS", 0.1)
    assert asyncio.run(beside_hanging_requests()) == (503, 200)


def test_it_is_not_ready_while_the_queue_is_full(router, monkeypatch):
    """Of requests whose bodies never end, so that the workers have nothing to do."""

    async def beside_waiting_requests() -> tuple[int, int]:
        app, begun = make_app(router), {"type": "http.request", "body": BODY[:5], "more_body": True}
        waiting = [asyncio.create_task(ask(app, "/invocations", begun)) for _ in range(2)]
        await asyncio.sleep(0)  # each task begins, and takes its place
        while_they_wait = await ask(app, "/ready")
        for request in waiting:
            request.cancel()
        await asyncio.wait(waiting)
        return while_they_wait, await ask(app, "/ready")

    router.clip_answered.set()
    monkeypatch.setattr(entrance, "MOST_REQUESTS", 2)
    assert asyncio.run(beside_waiting_requests()) == (503, 200)
