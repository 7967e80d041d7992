"""The stage submit: a package of registered versions, tried in an environment of its own."""

import ast
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import yaml
from fixtures.noise_data import RATE, write_tau

from adaptf.data.clips import TEST, TRAIN, VALIDATION
from adaptf.data.parquet import write_table
from adaptf.data.sets.published_lists import tau_split
from adaptf.errors import UserError
from adaptf.mlproject.submit import SUBMIT, SubmitConfig, files_to_predict
from adaptf.pipeline import int8_models
from adaptf.pipeline.config import DataConfig
from adaptf.pipeline.int8_models import models_of_version
from adaptf.pipeline.lineage import flat, tree
from adaptf.pipeline.stage import execute
from adaptf.serving import router_model
from adaptf.submission.agreement import check_scenes
from adaptf.submission.as_organisers import DEVICES
from adaptf.submission.environment import run_python
from adaptf.submission.meta import meta
from adaptf.submission.models import Submitted, came_from, submitted
from adaptf.submission.rules import check_training_clips, untold
from adaptf.submission.write import REQUIREMENTS
from adaptf.tracking import production, registry
from adaptf.tracking.present import IN_PRODUCTION
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import FILE, STAGE, UPSTREAM

pytestmark = pytest.mark.slow
NAME = "Doe_UNI_task1"


@pytest.fixture(scope="module")
def data(folder: Path, scenes: list[str]) -> DataConfig:
    """Of ten scenes, with two test clips each by devices a and b."""
    root = write_tau(folder / "tau", scenes=scenes, locations=3, clips=2)
    return DataConfig(root=str(root), cache=str(folder / "cache"), workers=1)


@pytest.fixture(scope="module")
def quantized(prepared: str) -> str:
    """A run of `quantize`, as far as lineage goes."""
    return made_run("quantize", prepare_run=prepared)


@pytest.fixture(scope="module")
def registered(quantized: str, bundle: Path, versions: dict[str, str]) -> str:
    """A run of `register` that logged a router of random networks."""
    with mlflow.start_run(tags={STAGE: "register"}) as run:
        uri = router_model.log_router(bundle, registry.ROUTER_NAME)
        for name, number in [(registry.ROUTER_NAME, 1), *numbered(versions)]:
            for _ in range(number):
                registry.register(uri, name, tags={"adaptf.quantize_run": quantized}, description="")
        mlflow.log_dict({registry.ROUTER_NAME: "1"}, "versions.json")
    return str(run.info.run_id)


def numbered(versions: dict[str, str]) -> list[tuple[str, int]]:
    pairs = [version.split("/") for version in versions.values()]
    return [(name, int(number)) for name, number in pairs]


def made_run(stage: str, **upstream: str) -> str:
    """A finished run that says what it took from."""
    tags = {STAGE: stage} | {f"{UPSTREAM}{field}": run_id for field, run_id in upstream.items()}
    with mlflow.start_run(run_name=stage, tags=tags) as run:
        return str(run.info.run_id)


@pytest.fixture(scope="module")
def evaluation_set(folder: Path) -> Path:
    """Files of devices that were trained for, and that were not."""
    root = folder / "evaluation"
    devices = ["a", "s9", "unknown", "b", "c", "a"]
    names = [write_noise(root / "audio" / f"{place}.wav", place) for place in range(len(devices))]
    (root / "evaluation_setup").mkdir()
    listed = pd.DataFrame({"filename": [f"audio/{name}" for name in names], "device_id": devices})
    listed.to_csv(root / "evaluation_setup" / "test.csv", sep="\t", index=False)
    return root


def write_noise(path: Path, seed: int, seconds: float = 1.0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(round(RATE * seconds))
    soundfile.write(path, 0.1 * noise, RATE)
    return path.name


@pytest.fixture(scope="module")
def config(prepared: str, registered: str, evaluation_set: Path, folder: Path) -> SubmitConfig:
    details = "submission: {authors: [{lastname: Doe}]}\nsystem: {source_code: here}\n"
    (folder / "details.yaml").write_text(details)
    return SubmitConfig(
        label="Doe_UNI",
        register_run=registered,
        prepare_run=prepared,
        evaluation_set=str(evaluation_set),
        details=str(folder / "details.yaml"),
        environment="installed",
    )


@dataclass(frozen=True)
class Made:
    run: mlflow.entities.Run
    artifacts: Path

    def read(self, name: str) -> dict:
        return json.loads((self.artifacts / name).read_text())


@pytest.fixture(scope="module")
def made(config: SubmitConfig) -> Made:
    """The stage's own check, in a fresh environment, has passed."""
    run_id = execute(SUBMIT, config)
    return Made(mlflow.get_run(run_id), Path(mlflow.artifacts.download_artifacts(run_id=run_id)))


@pytest.fixture(scope="module")
def api(made: Made) -> Iterator[ModuleType]:
    """What the organisers import."""
    sys.path.insert(0, str(made.artifacts / "package"))
    try:
        yield importlib.import_module(f"{NAME}.{NAME}_1")
    finally:
        sys.path.pop(0)


@pytest.fixture
def run(tmp_path: Path) -> StageRun:
    return StageRun("none", "submit", tmp_path)


def test_the_package_predicts_the_evaluation_set_in_its_order(made: Made, scenes: list[str]):
    table = pd.read_csv(made.artifacts / "output.csv", sep="\t")
    assert list(table.columns) == ["filename", "scene_label", *scenes]
    assert list(table["filename"]) == [f"audio/{place}.wav" for place in range(6)]
    assert table[scenes].sum(axis=1).to_numpy() == pytest.approx(1.0)
    assert list(table[scenes].idxmax(axis=1)) == list(table["scene_label"])
    assert set(made.read("test_accuracy.json")) == {"Test Accuracy"}


def test_complexity_is_told_of_thirteen_devices_those_without_a_model_by_the_general_one(made: Made):
    complexity = made.read("complexity.json")
    layers = pd.read_csv(made.artifacts / "layers.csv").groupby("device")[["MACs", "bytes"]].sum()
    assert list(complexity["per_device"]) == list(DEVICES)
    for device, found in complexity["per_device"].items():
        counted = layers.loc[device if device in ("a", "b") else "unknown"]
        assert (found["MACs"], found["Params"]) == (counted["MACs"], counted["bytes"])
    assert complexity["max_MACs"] == made.run.data.metrics["macs"]
    assert complexity["max_Params"] == made.run.data.metrics["model_bytes"]


def test_devices_without_a_network_get_the_general_one(api: ModuleType):
    model = api.load_model()
    general = api.get_model_for_device(model, "unknown")
    for device in ("c", *(f"s{number}" for number in range(1, 11)), "", float("nan"), "A"):
        assert api.get_model_for_device(model, device) is general
    own = [api.get_model_for_device(model, device) for device in ("a", "b")]
    assert len({*own, general}) == 3
    assert api.get_model_for_device(model, " a") is own[0]


def test_answers_are_logits_and_each_is_by_the_network_of_its_device(api: ModuleType, evaluation_set: Path):
    listed = files_to_predict(evaluation_set)
    files, devices = [str(evaluation_set / name) for name in listed["filename"]], list(listed["device_id"])
    logits, classes = api.predict(file_paths=files, device_ids=devices, model_file_path=None, use_cuda=False)
    assert [len(one) for one in logits] == [len(classes)] * len(files)
    assert any(float(one.min()) < 0 for one in logits)
    model = api.load_model()
    for file, device, found in zip(files, devices, logits, strict=True):
        (log_mel,) = api.load_inputs([file], [device], model)
        assert log_mel.shape == (1, 1, 64, 64)
        with torch.no_grad():
            assert torch.allclose(api.get_model_for_device(model, device)(log_mel)[0], found, atol=0.01)


def test_a_file_that_is_no_clip_is_named_and_not_answered(api: ModuleType, tmp_path: Path):
    write_noise(tmp_path / "long.wav", 0, seconds=1.5)
    with pytest.raises(ValueError, match=r"long\.wav: 1 s of finite samples are expected, got 1\.500 s"):
        api.predict([str(tmp_path / "long.wav")], ["a"], use_cuda=False)
    with pytest.raises(Exception, match=r"none\.wav"):
        api.predict([str(tmp_path / "none.wav")], ["a"], use_cuda=False)


def test_weights_are_read_strictly_and_without_pickle(api: ModuleType, made: Made, tmp_path: Path):
    state = api.load_model().model.state_dict()
    assert {tensor.dtype for tensor in state.values()} <= {
        torch.int8, torch.float16, torch.float32, torch.float64,
    }  # fmt: skip
    torch.save({name: tensor for name, tensor in list(state.items())[1:]}, tmp_path / "less.pt")
    with pytest.raises(RuntimeError, match="Missing key"):
        api.load_model(str(tmp_path / "less.pt"))


def test_the_package_needs_nothing_but_its_requirements(made: Made):
    package = made.artifacts / "package"
    needed = [line.partition("==")[0] for line in (package / "requirements.txt").read_text().split()]
    assert needed == list(REQUIREMENTS)
    for file in (package / NAME).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                root = name.partition(".")[0]
                assert root in needed or root in sys.stdlib_module_names, (file, name)


def test_the_meta_file_tells_the_system_and_what_the_user_adds(made: Made, scenes: list[str]):
    told = yaml.safe_load((made.artifacts / f"{NAME}_1.meta.yaml").read_text())
    assert told["submission"] | {"label": f"{NAME}_1", "authors": [{"lastname": "Doe"}]} == told["submission"]
    assert told["system"]["source_code"] == "here"
    assert told["system"]["description"]["num_models_at_inference"] == 3
    complexity = told["system"]["complexity"]
    assert complexity["total_model_size"] == made.run.data.metrics["model_bytes"]
    results = told["results"]["development_dataset"]
    for setting in ("device_specific", "general"):
        assert list(results[setting]["class_wise"]) == scenes
        assert list(results[setting]["device_wise"]) == ["a", "b"]
        accuracy = made.run.data.metrics[f"accuracy/{setting}"]
        assert results[setting]["overall"]["accuracy"] == pytest.approx(100 * accuracy, abs=0.01)
        assert results[setting]["overall"]["logloss"] > 0


@pytest.mark.parametrize("name", ["test.csv", "fold1_test.csv"])
def test_both_names_of_the_evaluation_list_are_read(tmp_path: Path, name: str):
    write_list(tmp_path, name, "filename\tdevice_id\naudio/0.wav\tunknown\n")
    assert list(files_to_predict(tmp_path)["device_id"]) == ["unknown"]


def write_list(root: Path, name: str, text: str) -> None:
    (root / "evaluation_setup").mkdir()
    (root / "evaluation_setup" / name).write_text(text)


def test_settings_that_cannot_be_used_are_refused_before_work_begins(config: SubmitConfig, tmp_path: Path):
    with pytest.raises(UserError, match=r"label is 'none': give your last name and institute"):
        execute(SUBMIT, replace(config, label="none"))
    write_list(tmp_path, "test.csv", "filename\tdevice_id\naudio/0.wav\ta\n")
    with pytest.raises(UserError, match=r"audio/0\.wav: the file is missing"):
        execute(SUBMIT, replace(config, evaluation_set=str(tmp_path)))
    (tmp_path / "details.yaml").write_text("people: []")
    with pytest.raises(UserError, match="the sections submission and system"):
        execute(SUBMIT, replace(config, details=str(tmp_path / "details.yaml")))


def test_another_scene_than_that_of_the_version_is_refused_and_the_clip_named():
    test = pd.DataFrame({"filename": ["x.wav", "y.wav"]})
    found, wanted = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[[0, 0]]
    with pytest.raises(UserError, match=r"on 1 of 2 test clips:\n  y\.wav: tram instead of bus"):
        check_scenes(found, wanted, test, ["bus", "tram"])


def test_what_fails_in_the_environment_is_told(tmp_path: Path):
    with pytest.raises(UserError, match="no such scene"):
        run_python(Path(sys.executable), ["-c", "raise SystemExit('no such scene')"], cwd=tmp_path)


def test_what_is_in_production_is_taken_a_device_s_own_version_before_the_routers(
    registered: str,
    quantized: str,
    make_bundle,
    versions: dict[str, str],
    run: StageRun,
    monkeypatch: pytest.MonkeyPatch,
):
    production.promote(registry.ROUTER_NAME, "1")
    found = submitted(run, "none")
    assert found.versions == versions
    assert {node.stage for node in came_from(found)} == {"quantize", "prepare"}

    def promote(bundle: Path) -> None:
        """As the next version of device a's model."""
        version = str(mlflow.MlflowClient().create_model_version("adaptf-a", "runs:/x").version)
        production.promote("adaptf-a", version)
        bundles[f"models:/adaptf-a/{version}"] = bundle

    (manifest,) = run.folder.rglob("router.json")
    bundles = {f"models:/{registry.ROUTER_NAME}/1": manifest.parent}
    monkeypatch.setattr(int8_models, "bundle_behind", lambda uri, _, what: bundles[uri])
    promote(make_bundle("unknown", network_of="b"))
    assert submitted(run, "none").versions == versions | {"a": "adaptf-a/2"}
    assert submitted(run, registered).versions == versions
    exported = models_of_version(IN_PRODUCTION, run.folder / "exported")
    assert {model.device: model.version for model in exported} == versions | {"a": "adaptf-a/2"}
    promote(make_bundle("unknown", network_of="b", mel={"bands": 64, "preemphasis": 0.9}))
    with pytest.raises(UserError, match="adaptf-a/3 and what else is in production differ in mel"):
        submitted(run, "none")


def test_clips_beyond_the_25_percent_list_are_found_in_any_run_behind_a_version(
    registered: str, run: StageRun, tmp_path: Path
):
    def trained_on(table: pd.DataFrame) -> Submitted:
        """A version that goes back, by way of pre-training, to these clips."""
        write_table(tmp_path / "clips.parquet", table)
        data = made_run("prepare")
        mlflow.MlflowClient().log_artifact(data, str(tmp_path / "clips.parquet"), "data")
        trained = made_run("train", pretrain_run=made_run("pretrain", prepare_run=data))
        tags = {"adaptf.quantize_run": made_run("quantize", finetune_run=trained)}
        uri = f"runs:/{registered}"
        version = mlflow.MlflowClient().create_model_version(ensured("adaptf-x"), uri, tags=tags).version
        return SimpleNamespace(versions={"x": f"adaptf-x/{version}"})  # type: ignore[return-value]

    allowed, half, tested = tau_split("25"), tau_split("50"), tau_split("test")
    table = pd.DataFrame({"filename": [allowed[0], tested[0], "kitchen-oslo.wav"]})
    check_training_clips(run, came_from(trained_on(table.assign(split=[TRAIN, TEST, TRAIN]))))
    beyond = half[~half.isin(allowed)].iloc[0]
    for name in (beyond, tested[0], f"elsewhere/{Path(beyond).name}"):
        table = pd.DataFrame({"filename": [allowed[0], name], "split": [TRAIN, VALIDATION]})
        with pytest.raises(UserError, match=f"1 clips of prepare .*{Path(name).stem}"):
            check_training_clips(run, came_from(trained_on(table)))


def ensured(name: str) -> str:
    if not mlflow.MlflowClient().search_registered_models(f"name = '{name}'"):
        mlflow.MlflowClient().create_registered_model(name)
    return name


def test_what_nothing_is_known_of_is_told(registered: str):
    trained = made_run("train")
    mlflow.MlflowClient().set_tag(trained, f"{FILE}pretrain_run/one", "weights.ckpt (abc)")
    tags = {"adaptf.quantize_run": made_run("quantize", finetune_run=trained)}
    mlflow.MlflowClient().create_model_version(ensured("adaptf-y"), "runs:/x", tags=tags)
    assert untold(came_from(SimpleNamespace(versions={"y": "adaptf-y/1"}))) == ["weights.ckpt (abc)"]  # type: ignore[arg-type]


def test_external_data_augmentations_and_steps_are_told(registered: str):
    client = mlflow.MlflowClient()
    audioset = made_run("prepare")
    client.set_tag(audioset, "adaptf.data", "audioset")
    teacher = made_run("teacher")
    client.set_tag(teacher, "adaptf.teacher_model", "beats")
    client.log_param(teacher, "augment.spec_mask_share", 0.2)
    distilled = made_run(
        "distill", train_run=made_run("pretrain", prepare_run=audioset), teacher_runs=teacher
    )
    for name, value in {"dir_p": 0.4, "dir_folder": "/data/micirp", "mixup_alpha": 0.0}.items():
        client.log_param(distilled, f"augment.{name}", value)
    layers = pd.DataFrame({"weights": [1000], "biases": [10]})
    told = meta("Doe", flat(tree(distilled)), {"unknown": layers}, {"max_Params": 1020, "max_MACs": 9}, {})
    described = told["system"]["description"]
    assert described["data_augmentation"] == "dir augmentation"
    assert described["complexity_management"].startswith("knowledge distillation")
    assert described["pipeline"].startswith("pre-training, train teachers, train general student model with")
    external = {one["name"]: one["url"] for one in told["system"]["external_datasets"]}
    assert external.keys() == {"AudioSet", "BEATs", "MicIRP"}
    assert all(url.startswith("https://") for url in external.values())
    assert told["system"]["complexity"] == {"total_model_size": 1020, "total_parameters": 1010, "macs": 9}
