"""`mlflow run docker/project --backend kubernetes`: the Job that reaches the cluster,
and its pods, which are processes here."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import ExecutionException

from adaptf.tracking import lease
from adaptf.tracking.tags import STAGE

pytest.importorskip("kubernetes", reason="MLflow's backend needs it: pip install -e .[docker]")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install -e .[docker]")

from fixtures.cluster import DIGEST, Cluster, a_cluster  # noqa: E402

ROOT = Path(__file__).parents[2]
EPOCHS = 4


@pytest.fixture
def cluster(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    monkeypatch.chdir(ROOT)  # the template's path in kubernetes.json counts from there
    with a_cluster(tmp_path) as cluster:
        yield cluster


def submit(entry_point: str, **parameters: Any) -> str:
    """Id of the run that it has made."""
    return mlflow.projects.run(
        str(ROOT / "docker/project"),
        entry_point,
        backend="kubernetes",
        backend_config="docker/project/kubernetes.json",
        build_image=True,
        parameters=parameters,
    ).run_id


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return container


def test_the_job_is_one_of_kubernetes_and_holds_image_command_run_and_store(cluster: Cluster) -> None:
    run_id = submit("prepare", **{"preset": "demo", "data.root": "/data/tau"})
    (job,) = cluster.jobs
    kubernetes_validate.validate(job, "1.29", strict=True)
    container = container_of(job)
    assert job["metadata"]["name"].startswith("adaptf-")
    (tag,) = cluster.tags
    assert tag.startswith("registry.example.org/adaptf:") and cluster.pushed == [tag]
    assert container["image"] == f"{tag}@{DIGEST}"
    assert container["command"] == [
        *("python", "-m", "adaptf.mlproject.prepare"),
        *("--preset", "demo", "--data.root", "/data/tau"),
    ]
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert variables["MLFLOW_RUN_ID"] == run_id
    assert variables["MLFLOW_TRACKING_URI"] == mlflow.get_tracking_uri()
    assert {"configMapRef": {"name": "adaptf"}} in container["envFrom"]
    assert job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [128 + signal.SIGTERM]


def test_a_job_that_fails_fails_mlflow_run(cluster: Cluster) -> None:
    cluster.condition = "Failed"
    with pytest.raises(ExecutionException, match="failed"):
        submit("prepare")


def pod(job: dict[str, Any], environment: dict[str, str], folder: Path) -> "subprocess.Popen[str]":
    """A process as the Job's container has it: the command, its variables, and the volume."""
    container = container_of(job)
    python, *arguments = container["command"]
    assert python == "python"
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment | {one["name"]: one["value"] for one in container["env"]},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_next_pod_goes_on_where_one_was_told_to_end(
    cluster: Cluster, prepared: str, command: list[str], environment: dict[str, str], folder: Path
) -> None:
    settings = dict(one.removeprefix("--").split("=", 1) for one in command[3:])
    settings |= {"optim.max_epochs": str(EPOCHS), "optim.restart_epochs": str(EPOCHS)}
    run_id = submit("train", **settings)
    mlflow.MlflowClient().update_run(run_id, "RUNNING")  # the Job is not over: its pods are yet to come
    (job,) = cluster.jobs

    preempted = pod(job, environment, folder)
    assert preempted.stdout
    said = []
    for line in preempted.stdout:
        said.append(line)
        if "epoch 2/" in line:
            preempted.terminate()
    assert preempted.wait(60) == 128 + signal.SIGTERM, "".join(said)
    assert "train: interrupted. The same command goes on from there" in "".join(said)
    run = mlflow.get_run(run_id)
    assert (run.info.status, run.data.tags[lease.OWNER]) == ("KILLED", "")  # nobody waits for who had it

    resumed = pod(job, environment, folder)
    after, _ = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, after
    assert f"continues run {run_id}" in after and "waiting for a sign of life" not in after
    assert "epoch 1/" not in after and f"epoch {EPOCHS}/{EPOCHS}" in after
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    trained = mlflow.search_runs(filter_string=f"tags.`{STAGE}` = 'train'", output_format="list")
    assert [run.info.run_id for run in trained] == [run_id]
    history = mlflow.MlflowClient().get_metric_history(run_id, "val/accuracy")
    assert len({entry.step for entry in history}) == EPOCHS
