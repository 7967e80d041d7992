"""The programs of docs/batch.md: Spark on a cluster of two processes, and Ray Data, ask a registered router.

`pip install pyspark ray`, and Java 17 or later on the path, to run it.
"""

import base64
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from fixtures.serving import end_group

from adaptf.serving import logged_model
from adaptf.serving.local import local_router
from adaptf.tracking import production, registry

SPARK, RAY = re.findall(
    r"```python\n(.*?)```", Path(__file__).parents[2].joinpath("docs/batch.md").read_text(), re.DOTALL
)
TWO_COLUMNS = """
import mlflow
import pandas
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
rows = pandas.read_csv("clips.csv")
audio = [open(name).read() for name in rows.pop("base64")]
table = spark.createDataFrame(rows.assign(audio=audio).loc[list(range(len(rows))) * 130]).repartition(2)
answer = mlflow.pyfunc.spark_udf(spark, "models:/adaptf-router@production")
answers = table.select("filename", answer("audio", "device").alias("answer"))
answers.select("filename", "answer.*").write.parquet("answers")
"""
"""More rows to each of two tasks than a request may hold."""

needs_spark = pytest.mark.skipif(
    find_spec("pyspark") is None or shutil.which("java") is None, reason="needs pyspark and Java"
)
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")


@pytest.fixture(scope="module")
def store(bundle, database, tracked):
    """A store with a router in production, which is in force."""
    with tracked(f"sqlite:///{database}"):
        place = (database.parent / "artifacts").as_uri()
        with mlflow.start_run(experiment_id=mlflow.create_experiment("batch", artifact_location=place)):
            uri = logged_model.log_router(bundle, registry.ROUTER_NAME)
            version = registry.register(uri, registry.ROUTER_NAME, tags={}, description="")
        production.promote(registry.ROUTER_NAME, version)
        yield f"sqlite:///{database}"


@pytest.fixture
def folder(tmp_path, noise, encoded) -> Path:
    """clips.csv and ten files; two of them name no device."""
    devices = ["a", "b", "unknown", "zz", None] * 2
    table = pd.DataFrame({"filename": [f"audio/{row}.wav" for row in range(10)], "device": devices})
    (tmp_path / "audio").mkdir()
    for row, name in enumerate(table["filename"]):
        text = encoded(noise(8000, row), 8000)
        (tmp_path / name).write_bytes(base64.b64decode(text))
        (tmp_path / f"{row}.txt").write_text(text)
    table.assign(base64=[f"{row}.txt" for row in range(10)]).to_csv(tmp_path / "clips.csv", index=False)
    return tmp_path


@pytest.fixture
def expected(folder, bundle) -> pd.DataFrame:
    """The answers of the same router in this process."""
    table = pd.read_csv(folder / "clips.csv")
    audio = [(folder / name).read_text() for name in table["base64"]]
    answers = local_router(bundle).predict(None, pd.DataFrame({"audio": audio, "device": table["device"]}))
    return answers.set_index(table["filename"])[["scene", "device_used", "version_used", "error"]]


@pytest.fixture
def run(store, folder, outside) -> Callable[..., pd.DataFrame]:
    """`run(program)`: what it wrote, by file name."""

    def answers(program: str) -> pd.DataFrame:
        (folder / "answers.py").write_text(program)
        environment = outside | {
            "MLFLOW_TRACKING_URI": store,
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_SUBMIT_ARGS": "--master local-cluster[2,1,1024] pyspark-shell",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }
        command, log = [sys.executable, "answers.py"], folder / "answers.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        try:
            assert process.wait(600) == 0, log.read_text()[-5000:]
        finally:
            end_group(process)  # the engines' processes too
        return pd.read_parquet(folder / "answers").set_index("filename").sort_index()

    return answers


@needs_spark
def test_spark_takes_two_columns_and_no_options(run, expected) -> None:
    answers = run(TWO_COLUMNS)
    assert answers.index.value_counts().eq(130).all()
    assert answers["probability"].between(0.1, 1).all()
    once = answers[~answers.index.duplicated()][expected.columns]
    pd.testing.assert_frame_equal(once, expected, check_dtype=False)
    columns = answers.drop(columns=["probability", "probabilities"]).drop_duplicates()
    assert len(columns) <= len(expected)


@needs_spark
def test_the_program_for_spark_answers_a_folder_with_bad_files(run, folder, expected) -> None:
    answered_but_for_bad_files(run, folder, expected, SPARK)


@needs_ray
def test_the_program_for_ray_answers_a_folder_with_bad_files(run, folder, expected) -> None:
    answered_but_for_bad_files(run, folder, expected, RAY)


def answered_but_for_bad_files(run, folder: Path, expected: pd.DataFrame, program: str) -> None:
    bad = ["audio/3.wav", "audio/7.wav"]
    (folder / bad[0]).write_bytes(b"RIFF")
    (folder / bad[1]).write_text("what a fine day")
    answers = run(program)
    good = answers.drop(bad)
    pd.testing.assert_frame_equal(good[expected.columns], expected.drop(bad), check_dtype=False)
    failed = answers.loc[bad]
    assert failed["error"].str.contains("not readable as audio").all()
    assert (failed[["scene", "device_used", "version_used"]] == "").all(axis=None)
    assert failed["probability"].isna().all()
