"""Addresses of stores, as people read them: without passwords."""

import pytest

from adaptf.data.errors import DataError
from adaptf.errors import SectionError, UserError, without_passwords


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql+psycopg2://me:secret@host/runs", "postgresql+psycopg2://me@host/runs"),
        ("postgresql://me:a/secret:@b@host:5432/runs", "postgresql://me@host:5432/runs"),
        (
            "postgresql://host/runs?user=me&password=secret&a=b",
            "postgresql://host/runs?user=me&password=&a=b",
        ),
        ("https://me:secret@host:8443/mlflow", "https://me@host:8443/mlflow"),
        ("ftp://:secret@host", "ftp://@host"),
        ("postgres//me:secret@host/runs", "postgres//me@host/runs"),
        ("http://host:5000/#/experiments/1", "http://host:5000/#/experiments/1"),
        ("sqlite:////a/b:c/mlflow.db", "sqlite:////a/b:c/mlflow.db"),
        ("models:/adaptf-router@production", "models:/adaptf-router@production"),
    ],
)
def test_an_address_is_shown_without_its_password(address: str, shown: str) -> None:
    told = "there is no run 'x' in {} (or it's gone)"
    assert without_passwords(told.format(address)) == told.format(shown)


@pytest.mark.parametrize("kind", [UserError, DataError, lambda message: SectionError("sweep", message)])
def test_no_message_for_users_holds_a_password(kind: type[UserError]) -> None:
    assert str(kind("http://me:secret@host is away")).endswith("http://me@host is away")
