"""Tries docs/production.md: its commands are run as they stand there, in a copy of docker/, on small data and
with few epochs. The training is killed once, and a client asks the router all the time.

    python docker/production/trial.py

Ends with 0 where all of it went as it should; else it says what did not. Images stay, all else goes.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import requests
from client import Client
from engine import Compose, bring_engine, call, composing
from images import ROOT, make_images
from mlflow.entities import Run

from adaptf.demo.data_sets import write_demo
from adaptf.tracking.tags import STAGE

PROJECT = "adaptf-trial"
PAGE = ROOT / "docs" / "production.md"
DEVICE = "a"
"""Whose model the page promotes and rolls back."""
FIRST, SECOND = f"adaptf-{DEVICE}/1", f"adaptf-{DEVICE}/2"
IN_PAGE = "-P preset=demo -P data.root=/data/tau"
SMALL = {"training_locations": 8, "test_locations": 3, "clips_per_test_location": 1, "audioset_clips": 10}
"""Of the demo's data: places per scene, and clips of AudioSet, which is not used here."""
EPOCHS = {"train": 4, "teacher.small": 2, "distill": 3, "finetune": 1}
LESS_WORK = {
    "teacher_kinds": "ssl",
    **{f"{stage}.optim.max_epochs": f"{epochs}" for stage, epochs in EPOCHS.items()},
    **{f"{stage}.optim.restart_epochs": f"{epochs}" for stage, epochs in EPOCHS.items()},
    "finetune.min_clips": "50",  # a model for a, and one for all others
    "quantize.calibration_clips": "64",
    "quantize.refuse": "false",
    "promote.force": "true",
    "promote.reason": "a trial",
}
"""For a training of minutes, whose networks hardly learn: it is not the gates that are tried."""
KILLED, KILLED_AFTER = "train", 2
"""The stage in which the training's container is killed, and after how many of its epochs."""


def main() -> None:
    begun = time.monotonic()
    with TemporaryDirectory(prefix="adaptf-production-") as temporary:
        server = Path(temporary) / "docker"
        with step("the engine"):
            bring_engine(Path(temporary))
        with step("images"):
            images = make_images(Path(temporary))
        with step("data"):
            data = write_demo(Path(temporary) / "data", **SMALL)
        shutil.copytree(ROOT / "docker", server, ignore=shutil.ignore_patterns(".env", "secrets", "backup"))
        page = Page(server.parent, {"5000": str(free_port()), "5001": str(free_port())})
        with step("settings and secrets"):
            page.run("Settings and secrets")
            add_settings(server / ".env", {**images, **page.settings, "ADAPTF_DATA": str(data.tau.parent)})
        mlflow.set_tracking_uri(page.address("5000"))
        with composing(server, PROJECT) as compose:
            try_it(page, compose, sorted(data.tau.rglob("*.wav"))[:50])
    minutes = (time.monotonic() - begun) / 60
    print(f"\nproduction: all of it went as it should, in {minutes:.1f} minutes", flush=True)


def try_it(page: "Page", compose: Compose, clips: list[Path]) -> None:
    with step("the store"):
        page.run("The store")
    with step("a training, killed in the middle"):
        killed, finished = train_and_kill(page, compose)
    with step("the same command again"):
        page.run("Train")
        check_continued(killed, finished)
    router = page.address("5001")
    with step("the router"):
        page.run("Serve")
        check_webhook()
    client = Client(router, clips, DEVICE)
    client.start()
    try:
        with step("a new version is promoted"):
            page.run("Promote")
            wait_until(lambda: version_of(router) == SECOND, f"{SECOND} answers")
        with step("what there is to watch"):
            page.run("Watch")
        with step("rolled back"):
            page.run("Roll back")
            wait_until(lambda: version_of(router) == FIRST, f"{FIRST} answers")
        with step("the registry stops, the router starts without it, the registry comes back"):
            page.run("When the registry is away")
            wait_until(lambda: version_of(router) == FIRST, f"{FIRST} answers")
            wait_until(lambda: registry_of(router) == "answers", "the router finds the registry")
    finally:
        client.stop()
    check_client(client)


@dataclass(frozen=True)
class Page:
    """The commands of docs/production.md, which are run in `folder`."""

    folder: Path
    ports: Mapping[str, str]
    """The page's port -> that of the trial, which is free."""

    @property
    def settings(self) -> dict[str, str]:
        return {"MLFLOW_PORT": self.ports["5000"], "ROUTER_PORT": self.ports["5001"]}

    def address(self, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"

    def run(self, section: str) -> None:
        """Ends the trial where a command fails."""
        call("bash", "-c", self._script(section))

    def start(self, section: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["bash", "-c", self._script(section)])

    def _script(self, section: str) -> str:
        text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        commands = "\n".join(re.findall(r"^    (.*)", text, re.MULTILINE))
        if not commands:
            sys.exit(f"production: {PAGE} has no commands under '{section}'")
        less = " ".join(f"-P {name}={shlex.quote(value)}" for name, value in LESS_WORK.items())
        commands = commands.replace(IN_PAGE, f"{IN_PAGE} {less}")
        for port, free in self.ports.items():
            commands = commands.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
        inside = self.folder if commands.startswith("cd docker\n") else self.folder / "docker"
        return f"set -eux -o pipefail\ncd {inside}\n{commands}\n"


def add_settings(file: Path, values: Mapping[str, str]) -> None:
    file.write_text(file.read_text() + "".join(f"{name}={value}\n" for name, value in values.items()))


def train_and_kill(page: Page, compose: Compose) -> tuple[str, set[str]]:
    """The run that was killed, and those that had finished by then."""
    training = page.start("Train")
    wait_until(lambda: epochs_of(KILLED) >= KILLED_AFTER, f"{KILLED_AFTER} epochs of {KILLED}", 900, training)
    call("podman", "kill", "--signal", signal.SIGKILL.name, compose.container_of("train"))
    training.wait()
    found = runs()
    (killed,) = [run.info.run_id for run in found if stage_of(run) == KILLED]
    finished = {run.info.run_id for run in found if stage_of(run) and run.info.status == "FINISHED"}
    print(f"killed with SIGKILL after epoch {epochs_of(KILLED)} of {KILLED}, run {killed}", flush=True)
    return killed, finished


def check_continued(killed: str, finished: set[str]) -> None:
    """Ends the trial where what was done before the kill was done once more."""
    stages = [run for run in runs() if stage_of(run)]
    ended = {run.info.run_id: stage_of(run) for run in stages if run.info.status == "FINISHED"}
    times = Counter(stage for stage in ended.values() if stage != "finetune_device")
    if not {killed, *finished} <= set(ended) or times["main"] != 1 or max(times.values()) > 1:
        sys.exit(f"production: run {killed} of {KILLED} did not go on, or stages were done twice: {times}")
    steps = [one.step for one in mlflow.MlflowClient().get_metric_history(killed, "epoch")]
    if len(set(steps)) < len(steps):
        sys.exit(
            f"production: run {killed} of {KILLED} did epochs twice: the steps of its metrics are {steps}"
        )
    print(f"run {killed} of {KILLED} went on and has finished; each stage has one run: {', '.join(times)}")


def check_webhook() -> None:
    """Ends the trial where the MLflow server does not reach the router, or signs with another secret."""
    client = mlflow.MlflowClient()
    wait_until(lambda: bool(client.list_webhooks()), "the registry has a webhook")
    (hook,) = client.list_webhooks()
    if (answer := client.test_webhook(hook.webhook_id)).response_status != 200:
        sys.exit(f"production: the registry's webhook is not taken: {answer}")
    print(f"the router takes what the registry sends to {hook.url}", flush=True)


def runs() -> list[Run]:
    client = mlflow.MlflowClient()
    return list(client.search_runs([one.experiment_id for one in client.search_experiments()]))


def stage_of(run: Run) -> str:
    return run.data.tags.get(STAGE, "")


def epochs_of(stage: str) -> int:
    """How many epochs the stage's run has logged."""
    found = [run for run in runs() if stage_of(run) == stage]
    return max((int(run.data.metrics.get("epoch", -1)) + 1 for run in found), default=0)


def version_of(router: str) -> str:
    """The version that answers for the device; empty while nobody answers."""
    try:
        text = requests.get(f"{router}/metrics", timeout=5).text
    except requests.RequestException:
        return ""
    found = re.search(rf'^adaptf_model\{{device="{DEVICE}".*version="([^"]+)"\}} 1', text, re.MULTILINE)
    return found[1] if found else ""


def registry_of(router: str) -> str:
    """What the router says of the registry; empty while nobody answers."""
    try:
        return str(requests.get(f"{router}/health", timeout=5).json()["registry"])
    except (requests.RequestException, KeyError, ValueError):
        return ""


def wait_until(
    holds: Callable[[], bool],
    what: str,
    seconds: float = 180.0,
    working: subprocess.Popen[bytes] | None = None,
) -> None:
    """Ends the trial where it takes too long, or the process that is to bring it about ends before."""
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > seconds or (working and working.poll() is not None):
            sys.exit(f"production: {what}: not after {time.monotonic() - begun:.0f} s")
        time.sleep(0.5)
    print(f"{what}, after {time.monotonic() - begun:.1f} s", flush=True)


def check_client(client: Client) -> None:
    """Ends the trial where a request was lost, or not every version has answered."""
    print(f"\nThe client got {client.answered} answers, by version {dict(client.versions)}.")
    print(f"It sent {client.again} requests again, and waited {client.longest_seconds:.1f} s at the longest.")
    if client.lost:
        sys.exit(f"production: {len(client.lost)} requests were lost, the first one: {client.lost[0]}")
    if set(client.versions) != {FIRST, SECOND}:
        sys.exit(f"production: {FIRST} and {SECOND} should both have answered")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def step(what: str) -> Iterator[None]:
    print(f"\n=== {what} ===", flush=True)
    begun = time.monotonic()
    yield
    print(f"=== {what}: {time.monotonic() - begun:.0f} s ===", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("production: ended from outside"))
    os.environ["COMPOSE_PROJECT_NAME"] = PROJECT
    main()
