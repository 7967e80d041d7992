"""Names of devices on their way from the table to the router: what MLflow checks, and what people see."""

from dataclasses import asdict
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
from fixtures.stages import MEL, TRAINER
from fixtures.toy_student import ToyStudent
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow.utils import validation

from adaptf.data.clips import NO_DEVICES, NO_SCENES, check_clips
from adaptf.data.errors import DataError
from adaptf.data.parquet import read_table
from adaptf.evaluation.scores import TEXT_COLUMNS
from adaptf.evaluation.tables import LOG_LOSS, MACRO_AVERAGE, SEEN, UNSEEN
from adaptf.mlproject import predict
from adaptf.mlproject.evaluate import EVALUATE, EvaluateConfig
from adaptf.mlproject.finetune import FINETUNE, FinetuneConfig
from adaptf.mlproject.predict import PREDICT, PredictConfig
from adaptf.mlproject.prepare import PREPARE, PrepareConfig
from adaptf.mlproject.promote import PROMOTE, PromoteConfig
from adaptf.mlproject.quantize import QUANTIZE, QuantizeConfig
from adaptf.mlproject.register import REGISTER, RegisterConfig
from adaptf.models.checkpoint import save_classifier
from adaptf.models.classifier import ModelDescription, build_classifier
from adaptf.models.students.registry import STUDENTS, Student
from adaptf.names import stored, tidy, written
from adaptf.pipeline.config import DataConfig, OptimConfig
from adaptf.pipeline.stage import execute
from adaptf.reports.hardest_clips import PROBABILITY, TRUE_PROBABILITY
from adaptf.serving.bundle import read_bundle
from adaptf.serving.live import Follower
from adaptf.serving.logged_model import download_bundle
from adaptf.tracking import registry

NAME = "l/r: O'Neil's H4n+, $5 |*<b>"
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).map(tidy).filter(bool)


def is_refused(device: str) -> bool:
    """By `prepare`."""
    table = pd.DataFrame({"filename": ["x.wav"], "scene": ["bus"], "device": [device]})
    try:
        check_clips(table, scenes=["bus"], source="clips.csv")
    except DataError as error:
        assert "row 2, x.wav" in str(error)
        return True
    return False


@settings(deadline=None)
@given(NAMES)
@example("_x0028_")
@example("_x0028(")
@example("x" * 201)
def test_a_name_is_refused_with_its_row_or_taken_by_all_that_checks_one(device: str) -> None:
    if is_refused(device):
        return
    name, model = stored(device), registry.device_model_name(device)
    assert written(name) == device and registry.by_device([model]) == {device: model}
    for metric in (
        f"best/accuracy/{name}",
        f"relative loss/{name}",
        f"difference mean/{model} 1000 against 1000",
    ):
        validation._validate_metric(metric, 1.0, 0, 0)
    for tag in (f"adaptf.file.finetune_run/{name}", f"adaptf.promoted.{model}"):
        validation._validate_tag(tag, model)
    validation._validate_model_name(model)
    validation._validate_logged_model_name(model)
    assert (
        len(model) <= 256 and len(f"..{name}.openvino.xml.123456".encode()) <= 255
    )  # a column of the registry, a file


@given(st.text(st.characters(categories=["L", "Nd"], include_characters=" -_", exclude_characters="x")))
def test_a_name_that_is_fine_stays_as_it_is(device: str) -> None:
    assert stored(device) == device


@given(NAMES, NAMES)
def test_unlike_names_stay_unlike(one: str, other: str) -> None:
    assert (stored(one) == stored(other)) == (one == other)


def test_what_tables_hold_beside_devices_and_scenes_is_no_name_of_one() -> None:
    columns = {*TEXT_COLUMNS, *predict.ANSWER_COLUMNS, PROBABILITY, TRUE_PROBABILITY}
    assert columns | {MACRO_AVERAGE, LOG_LOSS} <= set(NO_SCENES)
    assert {MACRO_AVERAGE, SEEN, UNSEEN} <= set(NO_DEVICES)


@pytest.fixture(scope="module")
def root(folder: Path) -> Path:
    """The clips of two devices, a minute for each of two scenes."""
    generator, rows = np.random.default_rng(0), []
    (root := folder / "recorded").mkdir()
    for device in (NAME, "phone"):
        for scene in ("park", "tram"):
            for place in range(5):
                rows.append((f"{len(rows)}.wav", scene, device, f"{scene} {place}"))
                soundfile.write(root / rows[-1][0], 0.1 * generator.standard_normal(4 * 32000), 32000)
    table = pd.DataFrame(rows, columns=["filename", "scene", "device", "location"])
    table.to_csv(root / "clips.csv", index=False)
    return root


def artifact(run_id: str, path: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path))


@pytest.mark.slow
def test_a_name_that_mlflow_does_not_take_goes_all_the_way_and_is_shown_as_it_was_written(
    environment: dict[str, str], root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STUDENTS, "toy", Student(ToyStudent))
    data = DataConfig(root=str(root / "clips.csv"), cache=str(folder / "cache"), workers=1)
    prepared = execute(PREPARE, PrepareConfig(data))
    features, network = asdict(MEL), {"width": 8, "groups": 4}
    description = ModelDescription("toy", ("park", "tram"), features, network)
    start = save_classifier(build_classifier(description), folder / "start.ckpt", epoch=0)
    tuned = execute(
        FINETUNE,
        FinetuneConfig(
            prepare_run=prepared,
            distill_run=str(start),
            teacher_runs="none",
            devices=(NAME,),
            min_clips=1,
            optim=OptimConfig(max_epochs=0),
            trainer=TRAINER,
        ),
    )
    quantized = execute(
        QUANTIZE,
        QuantizeConfig(prepared, tuned, calibration_clips=16, tolerable_loss=1.0, tolerable_logit_error=1.0),
    )
    others = dict.fromkeys(("train_run", "distill_run"), "none")
    evaluated = execute(
        EVALUATE, EvaluateConfig(prepared, finetune_run=tuned, quantize_run=quantized, **others)
    )
    registered = execute(REGISTER, RegisterConfig(quantized, evaluated))
    model = registry.device_model_name(NAME)
    tags = mlflow.MlflowClient().get_model_version(model, "1").tags
    assert tags["adaptf.device"] == NAME
    shown = read_table(artifact(evaluated, "tables/predictions per device INT8.parquet"))
    asked_alone = read_table(artifact(quantized, f"validation/{stored(NAME)}.parquet"))
    assert set(shown["device"]) == set(asked_alone["device"]) == {NAME, "phone"}
    execute(PROMOTE, PromoteConfig(register_run=registered, tolerable_loss=1.0, tolerable_logit_error=1.0))
    follower = Follower(read_bundle(download_bundle(registry.ROUTER_NAME, "1", folder)), check_seconds=1)
    follower.check()
    assert (follower.notes, follower.problem) == ({}, "")
    assert follower.bundle.models[follower.bundle.device_used(f" {NAME} ")].version == f"{model}/1"
    wanted = pd.DataFrame({"filename": ["0.wav"], "device": [NAME]})
    wanted.to_csv(root / "asked.csv", index=False)
    predicted = execute(PREDICT, PredictConfig(files=str(root / "asked.csv")))
    answers = pd.read_csv(artifact(predicted, "predictions.csv"))
    assert answers.loc[0, ["device_used", "version_used"]].tolist() == [NAME, f"{model}/1"]
