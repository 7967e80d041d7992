"""Database and bucket of docker/compose.yaml: where clients are sent to, a backup, and the way back."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from fixtures.guarded import DOCKER, mlflow_server
from fixtures.postgresql import binaries
from fixtures.seaweedfs import KEYS, seaweedfs
from fixtures.store import in_store

from adaptf.tracking.server import through_the_server
from adaptf.tracking.stage_run import download

pytestmark = pytest.mark.slow
DIRECTLY = "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"
CONTENT = os.urandom(9_000_000)
"""More than boto3 sends in one piece."""


@contextmanager
def store(database: str, s3: str, folder: Path) -> Iterator[str]:
    """Address of an MLflow server that alone reaches its S3 server, under a name that nobody else knows."""
    bucket(s3, "make")
    behind = {"MLFLOW_S3_ENDPOINT_URL": "http://s3:8333", "http_proxy": s3, **KEYS}
    with mlflow_server(database, "s3://mlflow", folder, **behind) as address:
        yield address


def bucket(s3: str, what: str, given: bytes = b"") -> bytes:
    """What docker/bucket.py writes."""
    done = subprocess.run(
        [sys.executable, str(DOCKER / "bucket.py"), what],
        input=given,
        capture_output=True,
        env={**os.environ, **KEYS, "MLFLOW_S3_ENDPOINT_URL": s3},
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def postgres(program: str, database: str, *options: str, given: bytes = b"") -> bytes:
    """What pg_dump or pg_restore writes."""
    command = [str((binaries() or Path()) / program), *options]
    url = database.replace("+psycopg2", "")
    done = subprocess.run([*command, f"--dbname={url}"], input=given, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has said how clients get artifacts; what is set meanwhile is taken away again."""
    for name in (DIRECTLY, DIRECTLY.replace("DOWN", "UP")):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_backup_brings_back_runs_artifacts_and_what_is_in_production(
    new_database: Callable[[str], str], tmp_path: Path, forgotten: None
) -> None:
    database, restored = new_database("saved"), new_database("restored")
    (tmp_path / "model.bin").write_bytes(CONTENT)
    with seaweedfs(tmp_path / "s3") as s3, store(database, s3, tmp_path) as address:
        with in_store(address):
            with mlflow.start_run() as run:
                mlflow.log_artifact(str(tmp_path / "model.bin"), "int8/Zoom H4")
                mlflow.log_metric("accuracy", 0.5)
            client = mlflow.MlflowClient()
            client.create_registered_model("adaptf-a")
            client.create_model_version("adaptf-a", f"{run.info.artifact_uri}/int8", run.info.run_id)
            client.set_registered_model_alias("adaptf-a", "production", "1")
        dump, objects = postgres("pg_dump", database, "--format=custom"), bucket(s3, "save")
    with seaweedfs(tmp_path / "another s3") as s3:
        postgres("pg_restore", restored, "--clean", "--if-exists", given=dump)
        bucket(s3, "load", objects)
        with store(restored, s3, tmp_path) as address, in_store(address):
            through_the_server()
            (tmp_path / "got").mkdir()
            got = download(run.info.run_id, "int8", tmp_path / "got")
            assert (got / "Zoom H4" / "model.bin").read_bytes() == CONTENT
            assert mlflow.get_run(run.info.run_id).data.metrics == {"accuracy": 0.5}
            assert mlflow.MlflowClient().get_model_version_by_alias("adaptf-a", "production").version == "1"
            said = "\n".join(path.read_text() for path in tmp_path.glob("*.log"))
            assert "/presigned/" not in said, "the client was on its way to S3 itself"


def test_what_the_user_says_of_artifacts_stays(monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    monkeypatch.setenv(DIRECTLY, "true")
    through_the_server()
    assert os.environ[DIRECTLY] == "true"
    assert os.environ[DIRECTLY.replace("DOWN", "UP")] == "false"
