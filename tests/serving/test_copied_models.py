"""Models that were copied, from one real store to another or within one, serve there, live too."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from fixtures.store import in_store
from mlflow.entities import LoggedModelStatus

from adaptf.serving.bundle import read_bundle
from adaptf.serving.live import Follower
from adaptf.serving.own_code import answering
from adaptf.serving.router_model import log_router
from adaptf.tracking import production, registry


@pytest.fixture(scope="module")
def of_another_store(
    make_bundle: Callable[..., Path], empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """By name, the files of models that were registered and fetched there."""
    folder = tmp_path_factory.mktemp("elsewhere")
    bundles = {
        "adaptf-router": make_bundle("b", "unknown"),
        "adaptf-b": make_bundle("unknown", network_of="b"),
    }
    database = shutil.copy(empty_database, folder / "mlflow.db")
    with in_store(f"sqlite:///{database}", folder / "artifacts"):
        for name, bundle in bundles.items():
            with mlflow.start_run():
                version = registry.register(log_router(bundle, name), name, tags={}, description="")
            mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=str(folder / name))
    return {name: folder / name for name in bundles}


@pytest.fixture(scope="module")
def here(serve, database, tracked, of_another_store) -> Iterator[str]:
    """An MLflow server that knows nothing of them."""
    server = serve(
        "server", "--workers", "1", "--backend-store-uri", f"sqlite:///{database}",
        "--artifacts-destination", (database.parent / "artifacts").as_uri(),
    )  # fmt: skip
    with tracked(server):
        yield server


def as_artifacts(files: Path, name: str) -> str:
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(files), "model")
    return f"runs:/{run.info.run_id}/model"


def as_logged_model(files: Path, name: str) -> str:
    with mlflow.start_run():
        model = mlflow.initialize_logged_model(name)
        mlflow.MlflowClient().log_model_artifacts(model.model_id, str(files))
        mlflow.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return str(model.model_uri)


WAYS = {"artifacts of a run": as_artifacts, "a logged model": as_logged_model}


@pytest.fixture(params=WAYS.values(), ids=WAYS.keys())
def copied(request, here, of_another_store) -> Iterator[None]:
    """In production here."""
    for name, files in of_another_store.items():
        version = mlflow.register_model(request.param(files, name), name).version
        production.promote(name, str(version))
    yield
    for name in of_another_store:
        mlflow.MlflowClient().delete_registered_model(name)


@pytest.fixture
def row(noise, encoded) -> pd.DataFrame:
    return pd.DataFrame({"audio": [encoded(noise(32000))], "device": ["b"]})


def test_a_model_copied_from_another_store_serves_and_is_followed(copied, row, tmp_path):
    live = mlflow.pyfunc.load_model("models:/adaptf-router/1", model_config={"live": True})
    assert "b" not in live.unwrap_python_model().follower.notes
    assert live.predict(row).version_used.tolist() == ["adaptf-b/1"]
    with answering("models:/adaptf-router/1", {}, tmp_path, parts=1) as (_, who):
        assert who().bundle.models["b"].version == "adaptf-b/2", "as it was registered"


def test_a_version_copied_to_another_name_is_followed(copied, bundle):
    mlflow.MlflowClient().copy_model_version("models:/adaptf-b/1", "adaptf-c")
    production.promote("adaptf-c", "1")
    follower = Follower(read_bundle(bundle), check_seconds=10)
    follower.check()
    assert (follower.problem, follower.notes.get("c")) == ("", None)
    assert follower.bundle.models["c"].version == "adaptf-c/1"
    mlflow.MlflowClient().delete_registered_model("adaptf-c")
