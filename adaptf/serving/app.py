"""The served router: scoring of requests behind an entrance,
and what monitoring asks for beside it."""

import asyncio
import json
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from threading import Event
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect

from adaptf.serving.entrance import REQUESTS_AT_ONCE, RETRY_SECONDS, Entrance, TurnedAway, check_size
from adaptf.serving.monitoring import GIVEN_UP
from adaptf.serving.router import DeviceRouter
from adaptf.serving.scoring import score
from adaptf.serving.shadow_status import shadow_page
from adaptf.serving.status import health, versions
from adaptf.serving.webhook import webhook_route

_MOST_CONNECTIONS = 512
READY_SECONDS = 10
"""So long the built-in clip may wait for its turn among the requests."""
_STOP_SECONDS = 30
"""For the requests under way when the server is told to end."""


class _Scoring:
    """Answers requests on threads of its own, a bounded number of them."""

    def __init__(self, router: DeviceRouter) -> None:
        self._router, self._entrance = router, Entrance()
        self._threads = ThreadPoolExecutor(REQUESTS_AT_ONCE, "adaptf-request")
        self._limit_seconds = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
        self._trial: Future[None] | None = None

    async def __call__(self, request: Request) -> Response:
        try:
            check_size(int(request.headers.get("content-length", 0)))
            with self._entrance.place() as place:
                async with asyncio.timeout(self._limit_seconds) as limit:
                    await self._entrance.fill(place, request.stream())
                return await self._scored(request, place.body, until=limit.when() or 0.0)
        except (ClientDisconnect, TimeoutError):
            error = self._too_late(counted_as=GIVEN_UP)
        except TurnedAway as turned_away:
            error = turned_away
        if error.counted_as:
            self._router.monitor.turned_away(error.counted_as, str(error))
        return _refusal(error)

    async def ready(self) -> Response:
        """Whether a request that came now would be answered: it has a place, and the requests' threads answer
        the built-in clip. However many ask, one trial is under way at a time."""
        try:
            with self._entrance.place():
                pass  # it is there
            if self._trial is None or self._trial.done():
                self._trial = self._threads.submit(self._router.try_out)
            await asyncio.wait([asyncio.wrap_future(self._trial)], timeout=READY_SECONDS)
            if not self._trial.done():
                raise TurnedAway(503, f"nothing was answered for {READY_SECONDS} s", counted_as="")
        except TurnedAway as not_ready:
            return _refusal(not_ready)
        self._trial.result()
        return _json({"ready": True})

    async def _scored(self, request: Request, body: bytearray, *, until: float) -> Response:
        """The response. Where nobody waits for it any more, raises TurnedAway once the work has ended."""
        stop = Event()
        scored = partial(
            score,
            self._router,
            body,
            content_type=request.headers.get("content-type", ""),
            query=request.query_params.multi_items(),
            stop=stop,
        )
        task = self._threads.submit(scored)
        work = asyncio.wrap_future(task)
        leaving: asyncio.Future[Any] = asyncio.ensure_future(_leaves(request))
        left_seconds = until - asyncio.get_running_loop().time()
        try:
            await asyncio.wait([work, leaving], timeout=left_seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
        finally:
            leaving.cancel()
            stop.set()
        began = not task.cancel()
        await asyncio.gather(work, return_exceptions=True)
        raise self._too_late(counted_as="" if began else GIVEN_UP)

    def _too_late(self, *, counted_as: str) -> TurnedAway:
        message = f"no answer within {self._limit_seconds} s"
        return TurnedAway(HTTPStatus.GATEWAY_TIMEOUT, message, counted_as=counted_as)


async def _leaves(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refusal(error: TurnedAway) -> Response:
    told = {"error_code": HTTPStatus(error.status).name, "message": str(error)}
    again = {"Retry-After": str(RETRY_SECONDS)} if error.status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return _json(told, error.status, again)


def _json(value: Any, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(value, indent=1) + "\n"
    return Response(text, status, headers, media_type="application/json")


def make_app(router: DeviceRouter, *, webhook_secret: str = "") -> FastAPI:
    """The routes of a router that has started. Without a secret there is none for the registry's webhook."""
    app = FastAPI(openapi_url=None)
    scoring = _Scoring(router)

    async def invocations(request: Request) -> Response:
        return await scoring(request)

    # past FastAPI's reading of arguments, of which there are none
    app.add_route("/invocations", invocations, methods=["POST"])

    @app.get("/ping")
    @app.get("/health")
    async def lives() -> Response:
        state = health(router.follower)
        return _json(state, HTTPStatus.OK if state["ok"] else HTTPStatus.SERVICE_UNAVAILABLE)

    @app.get("/ready")
    async def ready() -> Response:
        return await scoring.ready()

    @app.get("/version")
    async def version() -> Response:
        return _json(versions(router.follower))

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(router.monitor.metrics), media_type=CONTENT_TYPE_LATEST)

    @app.get("/shadow")
    async def shadow() -> Response:
        if router.shadow:
            return _json(shadow_page(router.shadow))
        return _refusal(
            TurnedAway(404, "this server lets no candidate answer beside production", counted_as="")
        )

    if webhook_secret:
        app.post("/registry-changed")(webhook_route(webhook_secret, router.look_now))

    return app


def serve(router: DeviceRouter, *, host: str, port: int, webhook_secret: str = "") -> None:
    """Answers until the process is told to end.
    Raises what an answer may raise where the built-in clip gets none."""
    router.try_out()
    uvicorn.run(
        make_app(router, webhook_secret=webhook_secret),
        host=host,
        port=port,
        workers=1,  # streams live in one process
        access_log=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
