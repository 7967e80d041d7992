"""The project with an image, and what clusters read: manifests of Kubernetes, the script for Slurm."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.projects import env_type
from mlflow.projects._project_spec import Project, load_project

from adaptf.mlproject.sweep import SweepConfig
from adaptf.pipeline.command_line import parse

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker/project"


def generated() -> str:
    """What generate.py would write."""
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.text())


def points_of(project: Project) -> dict[str, Any]:
    points = project._entry_points or {}
    return {
        name: (one.command, {key: (value.type, value.default) for key, value in one.parameters.items()})
        for name, one in points.items()
    }


def test_mlflow_finds_the_entry_points_of_the_project_in_that_with_an_image_too() -> None:
    assert (FOLDER / "MLproject").read_text() == generated(), "run python docker/project/generate.py"
    conda, docker = load_project(str(ROOT)), load_project(str(FOLDER))
    assert (conda.env_type, docker.env_type) == (env_type.CONDA, env_type.DOCKER)
    assert len(points_of(docker)) > 15 and points_of(docker) == points_of(conda)
    assert docker.name == conda.name


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return found


def pod_of(name: str) -> dict[str, Any]:
    pod: dict[str, Any] = manifest(name)["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_manifests_have_the_shape_that_kubernetes_wants(version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="pip install -e .[docker]")
    for path in FOLDER.glob("*.yaml"):
        for resource in yaml.safe_load_all(path.read_text()):
            validator.validate(resource, version, strict=True)


def test_workers_of_a_sweep_are_pods_as_those_of_other_stages_are() -> None:
    sweep, job = manifest("sweep.yaml")["spec"], manifest("job.yaml")["spec"]
    command = sweep["template"]["spec"]["containers"][0].pop("command")
    for spec in (sweep, job):
        (container,) = spec["template"]["spec"]["containers"]
        del container["name"], container["image"]
    assert sweep == job | {"parallelism": 4}
    assert command[:2] == ["adaptf", "sweep"]
    parse(SweepConfig, stage="sweep", arguments=command[2:])  # refuses what is no setting


@pytest.mark.parametrize("name", ["job.yaml", "sweep.yaml"])
def test_pods_keep_work_where_the_image_writes_it_and_are_its_user(name: str) -> None:
    image = (ROOT / "docker/train.Dockerfile").read_text()
    pod = pod_of(name)
    mounted = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
    kept = re.findall(r"\w+=(/home\S+)", image)
    assert kept and all(path.startswith(mounted["cache"] + "/") for path in kept)
    assert load_project(str(FOLDER)).docker_env["volumes"] == [f"adaptf-cache:{mounted['cache']}"]
    assert f"USER {pod['securityContext']['runAsUser']}\n" in image
    assert f"WORKDIR {pod['containers'][0]['workingDir']}\n" in image
    claimed = [one["persistentVolumeClaim"] for one in pod["volumes"] if "persistentVolumeClaim" in one]
    made = {one["metadata"]["name"] for one in yaml.safe_load_all((FOLDER / "setup.yaml").read_text())}
    assert {one["claimName"] for one in claimed} <= made


STAGE = """\
#!{python}
import signal, sys, time
def end(*_):
    time.sleep(0.3)  # it ends its runs
    print("ended in order", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("stage", *sys.argv[1:], flush=True)
time.sleep(float({seconds}))
sys.exit({code})
"""
"""In the place of `adaptf`, so that Slurm's script is what is tried."""


@pytest.fixture
def job(tmp_path: Path) -> Any:
    """`job(*signals, seconds=, code=) -> (exit code, lines)`:
    slurm.sh, which gets these signals once its stage works."""
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho scontrol "$@"\n')

    def run(*signals: int, seconds: float = 60.0, code: int = 0) -> tuple[int, list[str]]:
        text = STAGE.format(python=sys.executable, seconds=seconds, code=code)
        (tmp_path / "adaptf").write_text(text)
        for name in ("adaptf", "scontrol"):
            (tmp_path / name).chmod(0o755)
        variables = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        command = ["bash", str(FOLDER / "slurm.sh"), "train", "--preset=my demo"]
        with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            said = [process.stdout.readline().strip()]
            for number in signals:
                process.send_signal(number)
                time.sleep(0.05)
            said += process.stdout.read().splitlines()
        return process.returncode, said

    return run


BEGUN = "stage train --preset=my demo"


def test_a_slurm_job_whose_time_is_over_ends_its_stage_and_goes_in_line_again(job: Any) -> None:
    assert job(signal.SIGUSR1) == (143, [BEGUN, "ended in order", "scontrol requeue 7"])


def test_a_slurm_job_that_is_preempted_or_cancelled_leaves_the_rest_to_slurm(
    job: Any,
) -> None:
    assert job(signal.SIGTERM, signal.SIGTERM) == (143, [BEGUN, "ended in order"])


@pytest.mark.parametrize("code", [0, 1])
def test_a_slurm_job_ends_as_its_stage_does(job: Any, code: int) -> None:
    assert job(seconds=0.0, code=code) == (code, [BEGUN])
