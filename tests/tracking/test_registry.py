"""Logging, registering, promoting and resolving on a real MLflow store."""

import json
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

from adaptf.tracking import registry
from adaptf.tracking.registry import NoProductionVersion


@pytest.fixture(scope="module", autouse=True)
def experiment(database, tracked) -> Iterator[str]:
    with tracked(f"sqlite:///{database}"):
        yield mlflow.create_experiment("scenes", artifact_location=(database.parent / "artifacts").as_uri())


@pytest.fixture(scope="module")
def logged(experiment, bundle) -> str:
    with mlflow.start_run(experiment_id=experiment):
        return registry.log_router(bundle, "adaptf-router")


@pytest.fixture(scope="module")
def files(logged, tmp_path_factory) -> Path:
    """The logged model, on its own in a folder."""
    return Path(mlflow.artifacts.download_artifacts(logged, dst_path=str(tmp_path_factory.mktemp("model"))))


def stage_by_hand(name: str, number: str, stage: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        mlflow.MlflowClient().transition_model_version_stage(name, number, stage)


def registered(logged: str, name: str, *, versions: int = 1) -> str:
    for _ in range(versions):
        newest = registry.register(logged, name, tags={}, description="")
    return newest


def test_a_model_is_logged_only_to_a_run(bundle):
    with pytest.raises(ValueError, match="no run is active"):
        registry.log_router(bundle, "adaptf-router")


def test_a_model_can_be_logged_to_a_finished_run_of_another_experiment(make_bundle, experiment):
    with mlflow.start_run(experiment_id=experiment) as finished:
        pass
    with mlflow.start_run(experiment_id=mlflow.create_experiment("another")) as active:
        uri = registry.log_router(make_bundle("unknown"), "adaptf-a", run_id=finished.info.run_id)
        assert mlflow.active_run().info.run_id == active.info.run_id
    logged_model = mlflow.get_logged_model(uri.removeprefix("models:/"))
    assert (logged_model.source_run_id, logged_model.experiment_id) == (finished.info.run_id, experiment)


def test_a_bundle_that_cannot_answer_is_not_logged(make_bundle, experiment):
    with mlflow.start_run(experiment_id=experiment), pytest.raises(ValueError, match="none for 'unknown'"):
        registry.log_router(make_bundle("a"), "adaptf-router")


def test_the_logged_model_holds_no_pickle(files):
    names = [path.name for path in files.rglob("*") if path.is_file()]
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pyc"))]
    assert "router.py" in names and "router.json" in names
    for archive in files.rglob("*.pt2"):
        with zipfile.ZipFile(archive) as members:
            names = members.namelist()
            configs = [json.loads(members.read(name)) for name in names if name.endswith("_config.json")]
            assert not any(members.getinfo(name).file_size for name in names if "sample_inputs" in name)
        assert configs and not any(entry["use_pickle"] for config in configs for entry in config["config"].values())


def test_requirements_are_exact_and_installable(files):
    requirements = (files / "requirements.txt").read_text().split()
    assert f"mlflow=={version('mlflow')}" in requirements
    assert all("==" in line and "+" not in line for line in requirements)


def test_the_registry_page_shows_the_response_and_an_example_request(logged):
    info = mlflow.models.get_model_info(logged)
    assert info.signature.outputs.input_names()[:2] == ["scene", "probability"]
    assert "audio" in info.metadata["request"]
    assert info.metadata["example"]["dataframe_records"][0]["device"] == "a"


def test_the_model_loads_in_a_process_that_knows_no_adaptf(files, outside, tmp_path):
    moved = shutil.copytree(files, tmp_path / "elsewhere")
    program = f"""
import json, sys, mlflow, pandas
model = mlflow.pyfunc.load_model({str(moved)!r})
answer = model.predict(pandas.DataFrame(model.metadata.metadata["example"]["dataframe_records"]))
import adaptf
print(json.dumps([adaptf.__file__, answer.version_used[0], [n for n in sys.modules if n.startswith("adaptf.")]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=outside, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    source, version_used, modules = json.loads(done.stdout.splitlines()[-1])
    assert Path(source).is_relative_to(moved / "code")
    assert version_used == "adaptf-a/1"
    assert not [name for name in modules if name.startswith(("adaptf.training", "adaptf.mlproject"))]


def test_a_registered_version_has_its_tags_and_description(logged):
    number = registry.register(logged, "adaptf-tagged", tags={"accuracy": "0.59"}, description="device a, INT8")
    found = mlflow.MlflowClient().get_model_version("adaptf-tagged", number)
    assert (number, found.tags, found.description) == ("1", {"accuracy": "0.59"}, "device a, INT8")


def test_promotion_sets_alias_tag_and_stage_without_a_warning(logged):
    number = registered(logged, "adaptf-promoted")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.promote("adaptf-promoted", number)
    found = mlflow.MlflowClient().get_model_version("adaptf-promoted", number)
    assert (found.aliases, found.tags["stage"], found.current_stage) == (["production"], "Production", "Production")
    assert registry.resolve_production("adaptf-promoted") == number


def test_promotion_archives_the_former_version_and_can_be_repeated(logged):
    registered(logged, "adaptf-next", versions=3)
    for number in ("1", "2", "2"):
        registry.promote("adaptf-next", number)
    former, latter, other = sorted(registry.versions_of("adaptf-next"), key=lambda found: int(found.version))
    assert (former.tags["stage"], former.current_stage) == ("Archived", "Archived")
    assert (latter.tags["stage"], latter.current_stage) == ("Production", "Production")
    assert "stage" not in other.tags
    assert registry.resolve_production("adaptf-next") == "2"


def test_going_back_to_an_earlier_version_is_a_promotion_too(logged):
    registered(logged, "adaptf-back", versions=2)
    for number in ("1", "2", "1"):
        registry.promote("adaptf-back", number)
    assert registry.resolve_production("adaptf-back") == "1"
    assert {found.version: found.tags["stage"] for found in registry.versions_of("adaptf-back")} == {
        1: "Production",
        2: "Archived",
    }


def test_a_stage_set_by_hand_is_resolved(logged):
    registered(logged, "adaptf-by-hand", versions=2)
    stage_by_hand("adaptf-by-hand", "1", "Production")
    assert registry.resolve_production("adaptf-by-hand") == "1"


def test_the_alias_goes_before_the_stage(logged):
    registered(logged, "adaptf-both", versions=2)
    registry.promote("adaptf-both", "1")
    stage_by_hand("adaptf-both", "2", "Production")
    assert registry.resolve_production("adaptf-both") == "1"


def test_no_version_in_production_is_a_clear_error(logged):
    registered(logged, "adaptf-idle", versions=2)
    with pytest.raises(NoProductionVersion, match=r"'adaptf-idle' is in production \(versions: 2, 1\)"):
        registry.resolve_production("adaptf-idle")
    with pytest.raises(NoProductionVersion, match=r"'adaptf-never' is in production \(versions: none\)"):
        registry.resolve_production("adaptf-never")


def test_a_version_that_does_not_exist_is_not_promoted(logged):
    registered(logged, "adaptf-few", versions=2)
    with pytest.raises(ValueError, match=r"no version '7'; there are \['1', '2'\]"):
        registry.promote("adaptf-few", "7")


def gone_from_the_server(*_: object, **__: object) -> None:
    raise MlflowException("API request failed with error code 404", error_code=ENDPOINT_NOT_FOUND)


@pytest.mark.parametrize("name", ["adaptf-client-without", "adaptf-server-without"])
def test_promotion_works_where_stages_are_gone(name, logged, monkeypatch):
    registered(logged, name, versions=2)
    if name == "adaptf-client-without":
        monkeypatch.delattr(mlflow.MlflowClient, "transition_model_version_stage")
    else:
        monkeypatch.setattr(mlflow.MlflowClient, "transition_model_version_stage", gone_from_the_server)
    registry.promote(name, "1")
    registry.promote(name, "2")
    assert registry.resolve_production(name) == "2"
    assert {found.tags["stage"] for found in registry.versions_of(name)} == {"Production", "Archived"}


def test_a_device_called_router_has_no_model_name():
    assert registry.device_model_name("s1") == "adaptf-s1"
    with pytest.raises(ValueError, match="cannot be called 'router'"):
        registry.device_model_name("router")
