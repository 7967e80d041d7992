"""Logging and registering on a real MLflow store."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from adaptf.compression.runtime import why_no_openvino
from adaptf.data.processes import process_pool
from adaptf.errors import UserError
from adaptf.names import stored, written
from adaptf.serving import logged_model, router_model
from adaptf.serving.logged_model import ARCHIVE
from adaptf.serving.signature import example_request
from adaptf.tracking import production, registry

NASTY = [
    "Zoom H4n+",
    "zoom.h4n",
    "O'Neil",
    "a,b",
    "100%",
    "phone (old)",
    "l/r: |*<b>",
    "..",
    "1",
    "NA",
    "\u0939\u093f",
    "\U0001f3a4",
]


@pytest.fixture(scope="module", autouse=True)
def experiment(database, tracked) -> Iterator[str]:
    with tracked(f"sqlite:///{database}"):
        yield mlflow.create_experiment("scenes", artifact_location=(database.parent / "artifacts").as_uri())


@pytest.fixture(scope="module")
def logged(experiment, bundle) -> str:
    with mlflow.start_run(experiment_id=experiment):
        return router_model.log_router(bundle, "adaptf-router")


@pytest.fixture(scope="module")
def files(logged, tmp_path_factory) -> Path:
    """The logged model, on its own in a folder."""
    return Path(mlflow.artifacts.download_artifacts(logged, dst_path=str(tmp_path_factory.mktemp("model"))))


def registered(logged: str, name: str, *, versions: int = 1) -> str:
    for _ in range(versions):
        newest = registry.register(logged, name, tags={}, description="")
    return newest


def test_a_bundle_that_cannot_answer_is_not_logged(make_bundle, experiment):
    with mlflow.start_run(experiment_id=experiment), pytest.raises(ValueError, match="none for 'unknown'"):
        router_model.log_router(make_bundle("a"), "adaptf-router")


def test_the_logged_model_holds_no_pickle(files):
    names = [path.name for path in files.rglob("*") if path.is_file()]
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pyc"))]
    assert "served.py" in names and "router.json" in names
    for archive in files.rglob("*.pt2"):
        with zipfile.ZipFile(archive) as members:
            names = members.namelist()
            configs = [json.loads(members.read(name)) for name in names if name.endswith("_config.json")]
            assert not any(members.getinfo(name).file_size for name in names if "sample_inputs" in name)
        assert configs and not any(
            entry["use_pickle"] for config in configs for entry in config["config"].values()
        )


def test_requirements_are_exact_and_installable(files):
    requirements = (files / "requirements.txt").read_text().split()
    assert f"mlflow=={version('mlflow')}" in requirements
    assert all("==" in line and "+" not in line for line in requirements)


def test_the_registry_page_shows_the_response_and_an_example_request(logged):
    info = mlflow.models.get_model_info(logged)
    assert {"scene", "probability", "version_used"} <= set(info.signature.outputs.input_names())
    assert "audio" in info.metadata["request"]
    assert info.metadata["example"]["dataframe_records"][0]["device"] == "a"


@pytest.mark.parametrize(
    "device",
    [{}, {"device": [None]}, {"device": [np.nan]}, {"device": pd.Categorical(["a"])}],
    ids=["no column", "null", "not a number", "category"],
)
def test_a_loaded_model_refuses_no_table_that_the_router_takes(device, logged):
    model, row = mlflow.pyfunc.load_model(logged), example_request()["dataframe_records"][0]
    answer = model.predict(pd.DataFrame({"audio": [row["audio"]]} | device, index=[7]))
    assert answer.index.tolist() == [7]
    assert answer.columns.tolist() == model.metadata.get_output_schema().input_names()


def test_processes_that_begin_after_a_model_was_loaded_have_all_of_adaptf(logged):
    mlflow.pyfunc.load_model(logged)
    with process_pool(1, fresh=True) as pool:
        assert pool.submit(stored, "a").result(timeout=60) == "a"


@pytest.mark.parametrize("second", [3, 3.0])
def test_a_loaded_model_passes_streams_on(second, logged):
    table = pd.DataFrame(example_request()["dataframe_records"]).assign(stream="walk", second=second)
    with pytest.raises(MlflowException, match="registered without what streams need"):
        mlflow.pyfunc.load_model(logged).predict(table, params={"aggregate": "stream"})


LOAD = """
import json, sys, mlflow, pandas

def forms(*missing):
    sys.modules.update(dict.fromkeys(missing))
    model = mlflow.pyfunc.load_model(sys.argv[1])
    (row,) = model.metadata.metadata["example"]["dataframe_records"]
    answers = model.predict(pandas.DataFrame([row | {"device": device} for device in "ab"]))
    models = model.unwrap_python_model().bundle.models
    return dict(zip(answers.version_used, [models[device].network.form for device in "ab"]))

found = [forms(), forms("openvino", "onnx")]
ours = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "adaptf"]
print(json.dumps([found, ours]))
"""


def test_the_model_answers_in_every_form_by_the_code_that_it_carries_and_no_more(files, outside, tmp_path):
    """In a process that knows no adaptf."""
    moved = shutil.copytree(files, tmp_path / "elsewhere")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(moved)],
        cwd=tmp_path,
        env=outside,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found, sources = json.loads(done.stdout.splitlines()[-1])
    openvino = "ONNX Runtime" if why_no_openvino(bundle_of(moved) / "a.pt2") else "OpenVINO"
    assert found == [
        {"adaptf-a/1": openvino, "adaptf-b/2": "ONNX Runtime"}, {"adaptf-a/1": "pt2", "adaptf-b/2": "pt2"}
    ]  # fmt: skip
    assert [path.name for path in (moved / "code").iterdir()] == [ARCHIVE]
    archive = moved / "code" / ARCHIVE
    with zipfile.ZipFile(archive) as code:
        assert sorted(str(archive / name) for name in code.namelist()) == sorted(sources)
    assert len(sources) <= 45


def bundle_of(model: Path) -> Path:
    (manifest,) = model.rglob("router.json")
    return manifest.parent


def test_a_registered_version_has_its_tags_and_description(logged):
    number = registry.register(
        logged, "adaptf-tagged", tags={"accuracy": "0.59"}, description="device a, INT8"
    )
    found = mlflow.MlflowClient().get_model_version("adaptf-tagged", number)
    assert (number, found.tags, found.description) == ("1", {"accuracy": "0.59"}, "device a, INT8")


def test_the_bundle_of_a_version_is_downloaded(logged, bundle, tmp_path):
    found = logged_model.download_bundle("adaptf-bundled", registered(logged, "adaptf-bundled"), tmp_path)
    names = sorted(path.name for path in bundle.iterdir())
    assert sorted(path.name for path in found.iterdir()) == names
    assert (found / "router.json").read_text() == (bundle / "router.json").read_text()


def test_so_is_that_of_a_logged_model(logged, bundle, tmp_path):
    found = logged_model.bundle_behind(logged, tmp_path, what=logged)
    assert (found / "router.json").read_text() == (bundle / "router.json").read_text()


def test_a_version_without_a_bundle_is_named(tmp_path):
    client = mlflow.MlflowClient()
    client.create_registered_model("adaptf-foreign")
    client.create_model_version("adaptf-foreign", source=str(tmp_path))
    with pytest.raises(UserError, match="adaptf-foreign version 1 has no bundle that can be read"):
        logged_model.download_bundle("adaptf-foreign", "1", tmp_path)


def test_a_device_called_router_has_no_model_name():
    assert registry.device_model_name("s1") == "adaptf-s1"
    with pytest.raises(ValueError, match="cannot be called 'router'"):
        registry.device_model_name("router")


@pytest.mark.slow
def test_each_place_of_a_name_takes_that_of_any_device(experiment, tmp_path):
    for device in NASTY:
        (tmp_path / f"{stored(device)}.pt2").write_text(device)
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_metrics({f"kept/accuracy/{stored(device)}": 1.0 for device in NASTY})
        mlflow.set_tags({f"adaptf.file.distill_run/{stored(device)}": device for device in NASTY})
        mlflow.log_artifacts(str(tmp_path), "int8")
        for model in map(registry.device_model_name, NASTY):
            uri = mlflow.create_external_model(model).model_uri
            production.promote(model, registry.register(uri, model, tags={}, description=""))
    files = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="int8")).iterdir()
    assert {written(path.stem): path.read_text() for path in files} == dict(zip(NASTY, NASTY, strict=True))
    assert registry.by_device(production.in_production()).keys() >= set(NASTY)
