"""A training that was preempted in one container goes on in another, which shares volume and store."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import mlflow
import pytest
from fixtures.guarded import mlflow_server
from fixtures.noise_data import write_tau
from fixtures.store import in_store

from adaptf.tracking import lease

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
IMAGE, PROJECT, EPOCHS = "adaptf-train", "/home/adaptf/project", 12
TRAIN = [
    *("train", "--pretrain_run=none", "--mel.bands=64", "--model.width=8", "--optim.batch_size=8"),
    *(f"--optim.max_epochs={EPOCHS}", f"--optim.restart_epochs={EPOCHS}", "--trainer.workers=0"),
    *("--trainer.accelerator=cpu", "--trainer.progress_bar=false"),
]
PREPARE = ["prepare", "--data.root=/data", "--data.scenes=airport,bus", "--data.validation_share=0.25"]


def engine() -> str:
    """Docker's or Podman's program, whichever runs the image; the test is skipped where none does."""
    why = "neither docker nor podman is here"
    for found in filter(None, map(shutil.which, ("docker", "podman"))):
        command = [found, "run", "--rm", "--pull=never", IMAGE, "true"]
        tried = subprocess.run(command, capture_output=True, text=True)
        if tried.returncode == 0:
            return found
        why = tried.stderr.strip()
    pytest.skip(f"no container engine runs the image {IMAGE} (docker/train.Dockerfile): {why}")


@dataclass(frozen=True)
class Container:
    """One that runs a stage, which says its lines."""

    engine: str
    name: str
    process: "subprocess.Popen[str]"

    def stop(self) -> None:
        """As a scheduler does: SIGTERM, and in a minute SIGKILL."""
        subprocess.run([self.engine, "stop", "--time=60", self.name], check=True, capture_output=True)


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Callable[..., Container]]:
    """`container(stage, *options)`: one more, with the volume and the store of the others."""
    program, volume, started = engine(), f"adaptf-test-{uuid4().hex[:8]}", list[Container]()
    data = write_tau(tmp_path / "tau")
    server = mlflow_server(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"), tmp_path)
    with server as address, in_store(address):
        mounts = {volume: f"{PROJECT}/cache", data: "/data:ro", ROOT / "adaptf": f"{PROJECT}/adaptf:ro"}
        options = [f"--volume={here}:{there}" for here, there in mounts.items()]
        options += [f"--env=MLFLOW_TRACKING_URI={address}", "--env=OMP_NUM_THREADS=1", "--network=host"]

        def start(*command: str) -> Container:
            name = f"{volume}-{len(started)}"
            whole = [program, "run", f"--name={name}", *options, IMAGE, "adaptf", *command]
            pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(whole, text=True, **pipe)  # type: ignore[call-overload]
            started.append(Container(program, name, process))
            return started[-1]

        yield start
    for one in started:
        subprocess.run([program, "rm", "--force", one.name], capture_output=True)
    subprocess.run([program, "volume", "rm", "--force", volume], capture_output=True)


def test_a_training_goes_on_in_another_container(container: Callable[..., Container]) -> None:
    said, _ = container(*PREPARE).process.communicate(timeout=300)
    assert "prepare finished" in said, said

    one, lines = container(*TRAIN), []
    assert one.process.stdout
    for line in one.process.stdout:
        lines.append(line)
        if "epoch 2/" in line:
            one.stop()
    assert one.process.wait(60) == 143, "".join(lines)
    (run,) = mlflow.search_runs(filter_string="tags.`adaptf.stage` = 'train'", output_format="list")
    assert (run.info.status, run.data.tags[lease.OWNER]) == ("KILLED", "")

    other = container(*TRAIN)
    said, _ = other.process.communicate(timeout=300)
    assert other.process.returncode == 0 and f"train finished: run {run.info.run_id}" in said, said
    assert "epoch 1/" not in said and f"epoch {EPOCHS}/{EPOCHS}" in said
    assert mlflow.get_run(run.info.run_id).info.status == "FINISHED"
