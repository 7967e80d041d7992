"""A server that asks for passwords, behind TLS: who may do what, and what ends a stage in seconds."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
import requests
from fixtures.guarded import DOCKER, Guarded, make_certificate, proxy
from fixtures.serving import outside_environment
from fixtures.store import in_store
from mlflow.exceptions import MlflowException

from adaptf.pipeline.stage import Stage
from adaptf.promotion.moving import move
from adaptf.serving.bundle import bundle_hash
from adaptf.serving.router_model import log_router
from adaptf.tracking import production, registry
from adaptf.tracking.outcome import Result
from adaptf.tracking.registry import ROUTER_NAME
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import STAGE

pytestmark = pytest.mark.slow
SECONDS = 60
"""In which a stage says what is wrong; MLflow's own client tries again for minutes."""


@dataclass(frozen=True)
class PictureConfig:
    """Nothing to set."""


def picture(config: PictureConfig, run: StageRun) -> Result:
    path = run.folder / "report.png"
    path.write_bytes(bytes(1_300_000))
    return Result(files={"report.png": path})


PICTURE = Stage("picture", run=picture, config=PictureConfig)


@pytest.fixture
def stage_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """What a stage ends with, by the address of its server and its variables."""

    def say(address: str, **variables: str) -> str:
        monkeypatch.setattr(sys, "argv", ["picture"])
        with in_store(address, ADAPTF_WORK=str(tmp_path / "work"), **variables):
            begun = time.monotonic()
            with pytest.raises(SystemExit) as ended:
                PICTURE.main()
            assert time.monotonic() - begun < SECONDS
        return str(ended.value)

    return say


def test_a_wrong_password_ends_a_stage_at_once(guarded: Guarded, stage_says: Callable[..., str]) -> None:
    said = stage_says(guarded.address, **guarded.variables("train", MLFLOW_TRACKING_PASSWORD="a wrong one"))
    assert f"the MLflow server {guarded.address} wants to know who asks, or does not take these" in said
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in said


def test_a_certificate_that_nobody_has_signed_ends_a_stage_at_once(
    guarded: Guarded, stage_says: Callable[..., str]
) -> None:
    variables = guarded.variables("train")
    del variables["MLFLOW_TRACKING_SERVER_CERT_PATH"]
    said = stage_says(guarded.address, **variables)
    assert "certificate verify failed" in said and "MLFLOW_TRACKING_SERVER_CERT_PATH" in said


def test_an_empty_name_of_a_certificate_does_not_mean_that_none_is_wanted(
    guarded: Guarded, stage_says: Callable[..., str]
) -> None:
    said = stage_says(guarded.address, **guarded.variables("train", MLFLOW_TRACKING_SERVER_CERT_PATH=""))
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH is set and empty" in said


def test_a_certificate_for_another_name_ends_a_stage_at_once(
    guarded: Guarded, stage_says: Callable[..., str], tmp_path: Path
) -> None:
    other = make_certificate(tmp_path, "mlflow.example.org")
    variables = guarded.variables("train", MLFLOW_TRACKING_SERVER_CERT_PATH=str(other))
    with proxy(guarded.behind, other, tmp_path) as address:
        said = stage_says(address, **variables)
    assert "it has to be for the name in MLFLOW_TRACKING_URI" in said


def test_a_file_larger_than_the_proxy_takes_ends_a_stage_at_once(
    guarded: Guarded, stage_says: Callable[..., str], tmp_path: Path
) -> None:
    with proxy(guarded.behind, guarded.certificate, tmp_path, **{"4g": "100k"}) as address:
        said = stage_says(address, **guarded.variables("train"))
    assert "does not take report.png (1.3 MB) at once" in said and "client_max_body_size" in said
    assert "413 Request Entity Too Large" in said and "<" not in said


def test_a_user_who_only_reads_can_run_no_stage(guarded: Guarded, stage_says: Callable[..., str]) -> None:
    said = stage_says(guarded.address, **guarded.variables("serve"))
    assert "forbids it (it answers 403: this user may read, and nothing else" in said


@pytest.fixture(scope="module")
def registered(guarded: Guarded, bundle: Path) -> None:
    """A version of the router, by the user who trains."""
    variables = guarded.variables("train")
    with in_store(guarded.address, **variables), mlflow.start_run(tags={STAGE: "register"}):
        uri = log_router(bundle, ROUTER_NAME)
        tags = {registry.BUNDLE_HASH: bundle_hash(bundle)}
        registry.register(uri, ROUTER_NAME, tags=tags, description="of a test")


@pytest.fixture(scope="module")
def promoted(guarded: Guarded, registered: None) -> None:
    """By the user who may."""
    variables = guarded.variables("promote")
    with in_store(guarded.address, **variables), mlflow.start_run() as run:
        mover = StageRun(run.info.run_id, "promote", Path())
        move({ROUTER_NAME: "1"}, mover, seen={ROUTER_NAME: None}, reason="it is good")


CHANGES = {
    "alias": lambda client: client.set_registered_model_alias(ROUTER_NAME, "production", "2"),
    "no alias": lambda client: client.delete_registered_model_alias(ROUTER_NAME, "production"),
    "stage": lambda client: production.move_to_production_stage(client, ROUTER_NAME, "2"),
    "history": lambda client: production.write_history(ROUTER_NAME, ["2"]),
    "hash": lambda client: client.set_model_version_tag(ROUTER_NAME, "1", registry.BUNDLE_HASH, "0" * 64),
    "no version": lambda client: client.delete_model_version(ROUTER_NAME, "1"),
    "name": lambda client: client.rename_registered_model(ROUTER_NAME, "adaptf-other"),
    "no model": lambda client: client.delete_registered_model(ROUTER_NAME),
}


@pytest.mark.parametrize("user", ["train", "serve"])
@pytest.mark.parametrize("change", CHANGES)
def test_nobody_else_changes_what_is_in_production(
    guarded: Guarded, promoted: None, user: str, change: str
) -> None:
    with in_store(guarded.address, **guarded.variables(user)):
        with pytest.raises(MlflowException, match=r"may (change|read)"):
            CHANGES[change](mlflow.MlflowClient())
        assert production.production_or_none(ROUTER_NAME) == "1"


@pytest.mark.parametrize(
    "path",
    ["/api/2.0//mlflow/./registered-models/%61lias", "/ajax-api/2.0/preview/mlflow/registered-models/alias"],
)
def test_no_other_spelling_of_an_address_gets_past_the_proxy(
    guarded: Guarded, promoted: None, path: str
) -> None:
    body = {"name": ROUTER_NAME, "alias": "production", "version": "2"}
    request = requests.Request(
        "POST", guarded.address, json=body, auth=("train", guarded.password("train"))
    ).prepare()
    request.url = guarded.address + path
    answer = requests.Session().send(request, verify=str(guarded.certificate))
    assert answer.status_code == 403


def test_promoting_takes_a_password_and_not_the_name_alone(guarded: Guarded, promoted: None) -> None:
    variables = guarded.variables("promote", MLFLOW_TRACKING_PASSWORD="a wrong one")
    with in_store(guarded.address, **variables), pytest.raises(MlflowException, match="not authenticated"):
        mlflow.MlflowClient().set_registered_model_alias(ROUTER_NAME, "production", "2")


def test_the_router_serves_what_is_promoted_and_reads_alone(
    guarded: Guarded, promoted: None, serve_router: Callable[..., str]
) -> None:
    with in_store(guarded.address, **guarded.variables("serve")):
        router = serve_router("--check_seconds", "0.5")
    assert requests.get(f"{router}/version", timeout=10).json()["router"] == f"{ROUTER_NAME}/1"


def test_a_password_that_was_changed_in_its_file_is_the_users_when_the_script_has_run(
    guarded: Guarded,
) -> None:
    (guarded.secrets / "serve_password").write_text("another password of serve")
    assert "serve reads, and may edit nothing" in guarded.make_users()
    with in_store(guarded.address, **guarded.variables("serve")):
        assert mlflow.MlflowClient().search_experiments(max_results=1)


def test_the_admin_has_the_registry_tell_the_router_and_nobody_else_does(guarded: Guarded) -> None:
    url = "http://router:5001/registry-changed"

    def ask(user: str, secret: str) -> subprocess.CompletedProcess[str]:
        variables = guarded.variables(user, MLFLOW_TRACKING_URI=guarded.behind, ADAPTF_WEBHOOK_SECRET=secret)
        command = [sys.executable, str(DOCKER / "webhook.py"), url]
        return subprocess.run(command, env=outside_environment() | variables, capture_output=True, text=True)

    for secret in ("first", "second"):
        assert (done := ask("admin", secret)).returncode == 0, done.stderr
    refused = ask("train", "third")
    assert refused.returncode != 0 and "Permission denied" in refused.stderr
    with in_store(guarded.behind, **guarded.variables("admin")):
        (hook,) = mlflow.MlflowClient().list_webhooks()
    assert hook.url == url and len(hook.events) == 2
