"""`predict` by versions that other code of this package registered:
they answer as they did there, in a process of their own."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile

import adaptf
from adaptf.data.errors import DataError
from adaptf.errors import UserError
from adaptf.mlproject.predict import PREDICT, PREDICTIONS, PredictConfig
from adaptf.pipeline.stage import execute
from adaptf.serving.file_answers import Answers, ByNetworks, Clip
from adaptf.serving.limits import MAX_REQUEST_SECONDS
from adaptf.serving.logged_model import ARCHIVE, Refused
from adaptf.serving.own_code import ByRouter, answering
from adaptf.serving.requests import MAX_ROWS
from adaptf.serving.router_model import log_router
from adaptf.serving.router_process import RouterProcess
from adaptf.tracking import registry

FORMS = {"archive": "models:/adaptf-router/1", "package": "models:/adaptf-router/2"}
"""How a version carries its code: as now, and file by file, the whole package, as versions of before."""

DEVICES = ["a", "b", "elsewhere"]
NOT_WRITTEN = "no run of `register` in this store says that it wrote these files"

REGISTER = """
import json, sys
from pathlib import Path
import mlflow, pandas as pd
import adaptf
from adaptf.serving.bundle import bundle_hash
from adaptf.serving.local import local_router
from adaptf.serving.router_model import log_router
from adaptf.tracking import registry

bundle, package = Path(sys.argv[1]), Path(adaptf.__file__).parent
with mlflow.start_run():
    uris = [log_router(bundle, "adaptf-router")]
with mlflow.start_run():
    mlflow.set_tag(f"{registry.BUNDLE_HASH}.{bundle_hash(bundle)}", "adaptf-router")
    before = mlflow.pyfunc.log_model(
        name="adaptf-router", python_model=str(package / "serving/served.py"), code_paths=[str(package)],
        artifacts={"bundle": str(bundle)}, pip_requirements=["mlflow"],
    )
for uri in (*uris, before.model_uri):
    registry.register(uri, "adaptf-router", tags={registry.BUNDLE_HASH: bundle_hash(bundle)}, description="")
answers = local_router(bundle).predict(None, pd.DataFrame(json.load(sys.stdin)))
print(json.dumps(answers.to_dict("records")))
"""


@pytest.fixture(scope="module")
def rows(noise, encoded) -> pd.DataFrame:
    """A request of several devices."""
    audio = [encoded(noise(32000, seed), subtype="FLOAT") for seed in range(3)]
    return pd.DataFrame({"audio": audio, "device": DEVICES})


@pytest.fixture(scope="module")
def clips(noise) -> list[Clip]:
    """The same."""
    return [Clip(row, f"{row}.wav", device, noise(32000, row)) for row, device in enumerate(DEVICES)]


@pytest.fixture(scope="module")
def told(
    environment: dict[str, str], bundle: Path, rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> list[dict]:
    """What the code said that registered the two versions: a copy of ours with another log-mel."""
    source = tmp_path_factory.mktemp("other")
    package = shutil.copytree(
        Path(adaptf.__file__).parent, source / "adaptf", ignore=shutil.ignore_patterns("__pycache__")
    )
    log_mel = package / "audio" / "logmel.py"
    ours = log_mel.read_text()
    log_mel.write_text(ours.replace("LOG_OFFSET = 1e-5", "LOG_OFFSET = 1e-2"))
    assert log_mel.read_text() != ours
    done = subprocess.run(
        [sys.executable, "-c", REGISTER, str(bundle)],
        input=json.dumps(rows.to_dict("list")),
        env=environment | {"PYTHONPATH": str(source)},
        cwd=source,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def in_a_table(answers: Answers, scenes: list[str]) -> list[dict]:
    """As a router has them, without what is only repeated."""
    rows = zip(answers.used, answers.probabilities.tolist(), strict=True)
    return [
        {"device_used": device, "version_used": version, "probabilities": dict(zip(scenes, row, strict=True))}
        for (device, version), row in rows
    ]


def as_told(told: list[dict]) -> list[dict]:
    names = ("device_used", "version_used", "probabilities")
    return [{name: row[name] for name in names} for row in told]


@pytest.mark.parametrize("uri", FORMS.values(), ids=FORMS.keys())
def test_a_version_of_other_code_answers_as_that_code_does(uri, told, clips, scenes, tmp_path):
    with answering(uri, {}, tmp_path, parts=1) as (_, who):
        asked = who()
        assert in_a_table(asked.answer(clips), scenes) == as_told(told)
        loud = Clip(3, "loud.wav", "a", np.full(32000, 9, np.float32))
        with pytest.raises(DataError, match=r"^0\.wav to loud\.wav: row 3: audio has samples up to 9"):
            asked.answer([*clips, loud])
        assert in_a_table(asked.answer(clips[1:]), scenes) == as_told(told)[1:]
        asked.router._process.kill()
        with pytest.raises(UserError, match=r"the process that answers by the code of .* has ended \(-9\)"):
            asked.answer(clips)


def test_clips_asked_at_once_are_no_more_than_any_router_takes():
    assert MAX_ROWS >= ByRouter.clips_at_once <= MAX_REQUEST_SECONDS


def test_what_is_in_production_answers_by_a_versions_own_code_too(told, clips, scenes, make_bundle, tmp_path):
    with mlflow.start_run():
        uri = log_router(make_bundle("unknown", network_of="b"), "adaptf-b")
    version = registry.register(uri, "adaptf-b", tags={}, description="")
    with answering(FORMS["archive"], {"b": f"adaptf-b/{version}"}, tmp_path, parts=1) as (_, who):
        answered = in_a_table(who().answer(clips), scenes)
    assert [row["version_used"] for row in answered] == ["adaptf-a/1", "adaptf-b/1", "adaptf-unknown/3"]
    assert answered[1]["probabilities"] == told[1]["probabilities"], "the same network, by the same log-mel"


def test_a_version_in_production_that_has_no_files_is_named_before_anything_is_answered(told, tmp_path):
    with (
        pytest.raises(
            UserError, match=r"^adaptf-b/77, which is in production for device 'b', cannot answer: "
        ),
        answering(FORMS["archive"], {"b": "adaptf-b/77"}, tmp_path, parts=1),
    ):
        pytest.fail("somebody answers")


def test_predict_gives_the_answers_of_the_versions_code(told, rows, encoded, noise, tmp_path):
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", noise(32000, number), 32000, subtype="FLOAT")
    table = rows[["device"]].assign(filename=[f"{number}.wav" for number in range(3)])
    table.to_csv(tmp_path / "files.csv", index=False)
    config = PredictConfig(files=str(tmp_path / "files.csv"), model_uri=FORMS["archive"])
    answers = pd.read_csv(
        mlflow.artifacts.download_artifacts(f"runs:/{execute(PREDICT, config)}/{PREDICTIONS}")
    )
    for answer, expected in zip(answers.to_dict("records"), told, strict=True):
        assert answer["scene"] == expected["scene"]
        for scene, probability in expected["probabilities"].items():
            assert answer[scene] == pytest.approx(probability, abs=2e-3)


def test_a_version_of_the_code_that_is_installed_answers_by_its_networks(
    told, clips, bundle, tmp_path, scenes
):
    with mlflow.start_run():
        uri = log_router(bundle, "adaptf-router")
    with answering(uri, {}, tmp_path, parts=1) as (_, who):
        asked = who()
        assert isinstance(asked, ByNetworks)
        assert in_a_table(asked.answer(clips), scenes) != as_told(told)


def stored_code(version: str) -> Path:
    """Where the store keeps a version's code."""
    place = mlflow.MlflowClient().get_model_version_download_uri("adaptf-router", version)
    return Path(place.removeprefix("file://")) / "code"


def test_code_that_no_run_wrote_is_not_run(told, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **values: pytest.fail("the code was run"))
    archive = stored_code("1") / ARCHIVE
    registered = archive.read_bytes()
    try:
        archive.write_bytes(registered + b" ")
        with pytest.raises(Refused, match=NOT_WRITTEN):
            use(FORMS["archive"], tmp_path / "changed")
    finally:
        archive.write_bytes(registered)
    client, good = mlflow.MlflowClient(), mlflow.MlflowClient().get_model_version("adaptf-router", "2")
    forged = shutil.copytree(stored_code("2").parent, tmp_path / "forged")
    client.create_registered_model("adaptf-forged")
    client.create_model_version("adaptf-forged", forged.as_uri(), good.run_id, tags=good.tags)
    with pytest.raises(Refused, match=NOT_WRITTEN):
        use("models:/adaptf-forged/1", tmp_path / "elsewhere")


def use(uri: str, folder: Path) -> None:
    folder.mkdir()
    with answering(uri, {}, folder, parts=1):
        pass


def test_code_that_does_not_start_is_named_with_what_it_says(bundle, tmp_path):
    package = tmp_path / "adaptf" / "serving"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "router.py").write_text("import a_library_of_before")
    with pytest.raises(
        UserError,
        match="adaptf-a/1 does not start by its own code: ModuleNotFoundError: No module named 'a_library",
    ):
        RouterProcess(tmp_path, bundle, what="adaptf-a/1")


def test_the_process_ends_with_the_one_that_asks_it(told, tmp_path):
    program = f"""
import os
from pathlib import Path
from adaptf.serving.own_code import answering
with answering({FORMS["archive"]!r}, {{}}, Path({str(tmp_path)!r}), parts=1) as (_, who):
    print(who().router._process.pid, flush=True)
    os._exit(1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    status = Path("/proc", done.stdout.splitlines()[-1], "status")
    end = time.monotonic() + 30
    while status.exists() and "zombie" not in status.read_text():
        assert time.monotonic() < end
        time.sleep(0.1)
