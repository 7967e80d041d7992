"""The registry's webhook: only who knows the secret has the registry looked at."""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature

from adaptf.errors import UserError
from adaptf.serving.app import make_app
from adaptf.serving.webhook import SECRET, SECRET_FILE, doubt, read_secret

BODY = b'{"entity": "model_version_alias", "action": "created", "data": {"alias": "production"}}'


def headers(body: bytes = BODY, *, secret: str = "s3cret", sent: str = "1000") -> dict[str, str]:
    """As MLflow sends them."""
    signature = _generate_hmac_signature(secret, "delivery", sent, body.decode())
    return {
        "X-MLflow-Signature": signature, "X-MLflow-Delivery-Id": "delivery", "X-MLflow-Timestamp": sent,
    }  # fmt: skip


def test_what_mlflow_signs_is_believed():
    assert doubt(headers(), BODY, "s3cret", now=1000.0) == ""


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"X-MLflow-Signature": ""}, "there is no signature"),
        ({"X-MLflow-Signature": "v1,é"}, "the signature is not that of this body and secret"),
        ({"X-MLflow-Timestamp": "1001"}, "the signature is not that of this body and secret"),
        ({"X-MLflow-Delivery-Id": "another"}, "the signature is not that of this body and secret"),
        (headers(secret="another"), "the signature is not that of this body and secret"),
        (headers(BODY + b" "), "the signature is not that of this body and secret"),
        (headers(sent="600"), "it was signed at '600', more than 300 s from this clock"),
        (headers(sent="1400"), "it was signed at '1400', more than 300 s from this clock"),
        (headers(sent="noon"), "it was signed at 'noon', more than 300 s from this clock"),
    ],
)
def test_what_was_changed_or_is_old_is_not_believed(changed, why):
    assert doubt(headers() | changed, BODY, "s3cret", now=1000.0) == why


@pytest.fixture
def looks() -> list[bool]:
    """Grows by one for each look at the registry."""
    return []


@pytest.fixture
def send(looks) -> Callable[..., int]:
    """The status of a delivery to an app whose webhook has this secret."""

    def sent(body: bytes, of_headers: dict[str, str], *, secret: str = "s3cret") -> int:
        router = SimpleNamespace(look_now=lambda: looks.append(True))
        return asyncio.run(delivered(make_app(router, webhook_secret=secret), body, of_headers))

    return sent


async def delivered(app: Callable, body: bytes, of_headers: dict[str, str]) -> int:
    coming, answers = [{"type": "http.request", "body": body}], []

    async def receive() -> dict:
        return coming.pop(0) if coming else await asyncio.Event().wait()

    async def send(message: dict) -> None:
        answers.append(message)

    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in of_headers.items()]
    path = "/registry-changed"
    await app(
        {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": encoded},
        receive,
        send,
    )
    return answers[0]["status"]


def test_a_delivery_with_the_right_signature_has_the_registry_looked_at(send, looks):
    assert send(BODY, headers(sent=str(int(time.time())))) == 200
    assert looks == [True]


def test_a_bad_signature_is_refused_and_told_in_the_log(send, looks, caplog):
    with caplog.at_level(logging.INFO, "adaptf.router"):
        assert send(BODY, headers(secret="guessed", sent=str(int(time.time())))) == 401
    assert not looks
    (line,) = [json.loads(record.getMessage()) for record in caplog.records]
    assert (line["event"], line["level"], line["status"]) == ("webhook", "WARNING", 401)


def test_a_body_larger_than_any_delivery_is_not_read_to_its_end(send, looks):
    body = b" " * (2**16 + 1)
    assert send(body, headers(body, sent=str(int(time.time())))) == 413
    assert not looks


def test_without_a_secret_there_is_no_such_route(send, looks):
    assert send(BODY, headers(secret="", sent=str(int(time.time()))), secret="") == 404
    assert not looks


def test_the_secret_comes_from_a_variable_or_from_a_file(monkeypatch, tmp_path):
    assert read_secret() == ""
    monkeypatch.setenv(SECRET, "s3cret")
    assert read_secret() == "s3cret"
    file = tmp_path / "secret"
    file.write_text("from a file\n")
    monkeypatch.setenv(SECRET_FILE, str(file))
    with pytest.raises(UserError, match=f"both {SECRET} and {SECRET_FILE} are set"):
        read_secret()
    monkeypatch.delenv(SECRET)
    assert read_secret() == "from a file"
    file.write_text("\n")
    with pytest.raises(UserError, match=r"/secret is empty, it should hold the secret"):
        read_secret()
    file.unlink()
    with pytest.raises(UserError, match=f"{SECRET_FILE} can't be read: .*secret"):
        read_secret()
