"""A store that can't be used is said at once, before any work:
no server, none of MLflow, no rights, too old, no database."""

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import mlflow
import pytest
from fixtures.serving import free_port

from adaptf.errors import UserError
from adaptf.mlproject.prepare import PREPARE
from adaptf.pipeline.lineage import origin_of
from adaptf.tracking import runs
from adaptf.tracking.server import wait_for_answer
from adaptf.tracking.store import open_store

Answers = dict[str, tuple[int, str]]
EXPERIMENTS, VERSION = "/api/2.0/mlflow/experiments/search", "/version"


@contextmanager
def answering(answers: Answers) -> Iterator[str]:
    """Address of a server that gives these statuses and texts, and 404 for all else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, text = answers.get(self.path, (404, "<html>nothing here</html>"))
            self.send_response(status)
            kind = "application/json" if text.startswith("{") else "text/html"
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """`use(uri)`: what a user would set."""
    former = mlflow.get_tracking_uri()

    def set_it(uri: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)

    yield set_it
    mlflow.set_tracking_uri(former)


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (
            {EXPERIMENTS: (401, "who?")},
            "wants to know .*answers 401.*MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        ),
        ({EXPERIMENTS: (403, "Invalid Host header")}, r"forbids it \(it answers 403: Invalid Host header\)"),
        ({EXPERIMENTS: (502, "bad gateway")}, "is not well.*502: bad gateway"),
        ({}, "is none: the address answers 404.*MLFLOW_TRACKING_URI"),
        ({EXPERIMENTS: (200, "<html>welcome</html>")}, "is none: the address answers 200"),
        (
            {EXPERIMENTS: (200, "{}"), VERSION: (200, "2.22.0")},
            "is MLflow 2.22.0, .* needs MLflow 3 or later",
        ),
    ],
)
def test_a_server_that_is_of_no_use_says_why(answers: Answers, told: str, use: Callable[[str], None]) -> None:
    with answering(answers) as address:
        use(address)
        with pytest.raises(UserError, match=f"the MLflow server {address} {told}"):
            open_store()


def test_a_server_behind_a_gate_that_hides_its_version_is_taken(use: Callable[[str], None]) -> None:
    with answering({EXPERIMENTS: (200, json.dumps({"experiments": []}))}) as address:
        use(address)
        open_store()


def test_a_stage_ends_at_once_and_with_a_message_where_no_server_answers(
    use: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    use(f"http://me:secret@127.0.0.1:{port}")
    monkeypatch.setattr(sys, "argv", ["prepare", f"--data.root={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        PREPARE.main()
    assert str(ended.value) == (
        f"\nprepare: the MLflow server http://me@127.0.0.1:{port} does not answer (Connection refused): "
        f"start it, or give its address in MLFLOW_TRACKING_URI as a browser opens it, without what follows a "
        "#"
    )


def test_what_is_not_in_a_store_is_told_without_its_password(use: Callable[[str], None]) -> None:
    with answering({}) as address:
        use(shown := address.replace("//", "//me:secret@"))
        for look in (lambda: runs.finished_run("0" * 32), lambda: origin_of("0" * 32)):
            with pytest.raises(UserError, match=f"no run .* in {shown.replace(':secret', '')}"):
                look()


def test_a_host_that_nobody_knows_is_said(use: Callable[[str], None]) -> None:
    use("https://mlflow.invalid")
    with pytest.raises(UserError, match=r"server https://mlflow\.invalid does not answer \("):
        open_store()


def test_a_database_that_does_not_open_is_said_at_once(use: Callable[[str], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "text.db").write_text("no database at all, and longer than its header would be" * 100)
    for uri, told in {
        f"sqlite:///{tmp_path}/file/mlflow.db": r"folder of the MLflow store .*no file can be written",
        f"sqlite:///{tmp_path}/text.db": "can't be opened: file is not a database",
        f"postgresql+psycopg2://me:secret@127.0.0.1:{free_port()}/runs": r"me@.*Connection refused",
        "postgres://me:secret@127.0.0.1/runs": r"me@.* can't be used: .*Supported URI schemes",
    }.items():
        use(uri)
        with pytest.raises(UserError, match=told) as refused:
            open_store()
        assert "secret" not in str(refused.value)


def test_a_store_whose_packages_are_missing_is_said_and_never_waited_for(
    use: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.store.tracking.sqlalchemy_store", None)
    use(f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(UserError, match=r"store sqlite:.* can't be used: .*sqlalchemy_store"):
        open_store()
    with pytest.raises(ImportError):
        wait_for_answer("nothing")


def test_a_database_of_another_mlflow_is_said(
    use: Callable[[str], None], empty_database: Path, tmp_path: Path
) -> None:
    path = shutil.copy(empty_database, tmp_path / "mlflow.db")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    use(f"sqlite:///{path}")
    with pytest.raises(UserError, match=r"store sqlite:.* can't be used: .*0123456789ab"):
        open_store()
