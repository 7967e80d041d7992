"""The registry's webhook: MLflow says that an alias has moved, and the registry is looked at at once."""

import asyncio
import base64
import hashlib
import hmac
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path

from mlflow.webhooks.constants import (
    WEBHOOK_DELIVERY_ID_HEADER,
    WEBHOOK_SIGNATURE_HEADER,
    WEBHOOK_SIGNATURE_VERSION,
    WEBHOOK_TIMESTAMP_HEADER,
)
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from adaptf.errors import UserError
from adaptf.paths import user_path
from adaptf.serving.log_lines import log

SECRET, SECRET_FILE = "ADAPTF_WEBHOOK_SECRET", "ADAPTF_WEBHOOK_SECRET_FILE"
"""Environment variables: the secret that the webhook was created with, or the file that holds it."""
_MAX_BODY_BYTES = 64 * 2**10
"""An alias that moves is told in some 200."""
_BODY_SECONDS = 10.0
_MOST_SECONDS = 300
"""Between the sender's clock and this one; who overhears a delivery can repeat it for so long."""


def read_secret() -> str:
    """Empty where none is set. Raises UserError where there should be one and is not."""
    secret, file = (os.environ.get(name, "").strip() for name in (SECRET, SECRET_FILE))
    if secret and file:
        raise UserError(f"both {SECRET} and {SECRET_FILE} are set: one of them says the secret")
    return _text_of(file) if file else secret


def _text_of(file: str) -> str:
    try:
        text = Path(user_path(file, what=SECRET_FILE)).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{SECRET_FILE} can't be read: {error}") from error
    if not text:
        raise UserError(
            f"{SECRET_FILE}: {file} is empty, it should hold the secret of the registry's webhook"
        )
    return text


def webhook_route(
    secret: str, look_now: Callable[[], object]
) -> Callable[[Request], Awaitable[JSONResponse]]:
    """Calls `look_now` for whatever comes with the secret's signature: what it says is not read."""

    async def changed(request: Request) -> JSONResponse:
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await _read(request)
        except (ClientDisconnect, TimeoutError):
            return _refused(HTTPStatus.REQUEST_TIMEOUT, f"no body within {_BODY_SECONDS:g} s")
        if body is None:
            return _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has over {_MAX_BODY_BYTES} bytes")
        if why := doubt(request.headers, body, secret, now=time.time()):
            return _refused(HTTPStatus.UNAUTHORIZED, why)
        look_now()
        log("webhook", message="the registry has changed, and is looked at now")
        return JSONResponse({"looks": True})

    return changed


async def _read(request: Request) -> bytes | None:
    """None where it is too large."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_BODY_BYTES:
            return None
    return body


def doubt(headers: Mapping[str, str], body: bytes, secret: str, *, now: float) -> str:
    """Why a delivery is not believed to be of who knows the secret, and of `now`; empty where it is."""
    delivery, sent = headers.get(WEBHOOK_DELIVERY_ID_HEADER, ""), headers.get(WEBHOOK_TIMESTAMP_HEADER, "")
    signed = f"{delivery}.{sent}.".encode() + body
    digest = base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    given = headers.get(WEBHOOK_SIGNATURE_HEADER, "")
    if not hmac.compare_digest(given.encode(), f"{WEBHOOK_SIGNATURE_VERSION},{digest}".encode()):
        return "the signature is not that of this body and secret" if given else "there is no signature"
    if not sent.isdecimal() or abs(now - int(sent)) > _MOST_SECONDS:
        return f"it was signed at {sent!r}, more than {_MOST_SECONDS} s from this clock"
    return ""


def _refused(status: HTTPStatus, why: str) -> JSONResponse:
    log("webhook", logging.WARNING, status=int(status), message=f"refused: {why}")
    return JSONResponse({"error_code": status.name, "message": why}, status)
