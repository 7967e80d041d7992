"""docs/production.md, tried: images are built, and docker/ runs a store, a training that is killed once, a
promotion, a router and the way back, while a client asks all the time.

    python docker/production/trial.py

Ends with 0 where all of it went as it should; else it says what did not. Images stay, all else goes.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
DEVICE = "a"
"""Whose model is promoted, and rolled back."""
SHORT = {
    "preset": "demo",
    "data.root": "/data/tau",
    "teacher_kinds": "ssl",
    "train.optim.max_epochs": "8",
    "train.optim.restart_epochs": "8",
    "teacher.small.optim.max_epochs": "4",
    "teacher.small.optim.restart_epochs": "4",
    "distill.optim.max_epochs": "8",
    "distill.optim.restart_epochs": "8",
    "finetune.optim.max_epochs": "1",
    "finetune.optim.restart_epochs": "1",
    "quantize.refuse": "false",
    "promote.force": "true",
    "promote.reason": "a trial of the way, whose networks have hardly learnt",
}
"""Settings of `main` for a training of minutes."""
KILLED = "train"
"""The stage in the middle of which the container is killed, after so many epochs:"""
KILLED_AFTER = 3
MLFLOW_RUN = ["run", "--rm", "--no-TTY", "train", "mlflow", "run", ".", "--env-manager", "local"]


def main() -> None:
    begun = time.monotonic()
    with TemporaryDirectory(prefix="adaptf-production-") as temporary:
        folder = Path(temporary)
        with step("the engine"):
            bring_engine(folder)
        with step("images"):
            images = make_images(folder)
        with step("demo data"):
            data = write_demo(ROOT / "demo_data")
        ports = {"MLFLOW_PORT": str(free_port()), "ROUTER_PORT": str(free_port())}
        write_server(folder, {**images, **ports, "ADAPTF_DATA": str(ROOT / "demo_data")})
        mlflow.set_tracking_uri(f"http://127.0.0.1:{ports['MLFLOW_PORT']}")
        router = f"http://127.0.0.1:{ports['ROUTER_PORT']}"
        with composing(folder, PROJECT) as compose:
            with step("the store starts"):
                compose.up()
            with step("main, killed in the middle"):
                killed, finished = train_and_kill(compose)
            with step("main, the same command again"):
                train(compose)
                check_continued(killed, finished)
            with step("a second version of each model"):
                stage(compose, "register", preset="demo")
            with step("the router starts"):
                compose.up("router", "webhook")
                wait_until(lambda: version_of(router) == f"adaptf-{DEVICE}/1", "the router answers")
            clips = sorted(Path(data).parent.rglob("*.wav"))[:50]
            client = Client(router, clips, DEVICE)
            client.start()
            try:
                serve_through_all(compose, router)
            finally:
                client.stop()
        check_client(client)
    minutes = (time.monotonic() - begun) / 60
    print(f"\nproduction: all of it went as it should, in {minutes:.1f} minutes", flush=True)


def serve_through_all(compose: Compose, router: str) -> None:
    """What happens to a router while a client asks it."""
    with step("version 2 is promoted, and taken up"):
        stage(compose, "promote", preset="demo", device=DEVICE, version="2", force="true", reason="a trial")
        wait_until(lambda: version_of(router) == f"adaptf-{DEVICE}/2", "version 2 answers")
    with step("metrics"):
        watched = requests.get(f"{router}/metrics", timeout=10).text
        print("\n".join(re.findall(r"^adaptf_(?:model|requests_total|live).*", watched, re.M)))
    with step("rolled back, and taken up"):
        stage(compose, "rollback", device=DEVICE, reason="a trial")
        wait_until(lambda: version_of(router) == f"adaptf-{DEVICE}/1", "version 1 answers")
    with step("the MLflow server stops, and the router starts without it"):
        compose("stop", "mlflow")
        compose("restart", "router")
        wait_until(lambda: version_of(router) == f"adaptf-{DEVICE}/1", "the router answers from what it kept")
    with step("the MLflow server comes back"):
        compose("start", "mlflow")
        wait_until(lambda: ready(router).get("registry") == "answers", "the router finds the registry")


def write_server(folder: Path, values: dict[str, str]) -> None:
    """What lies in docker/ on a server: Compose's files, the variables, and the secrets."""
    for file in ("compose.yaml", "from-files.sh"):
        shutil.copy(ROOT / "docker" / file, folder)
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    (folder / "secrets").mkdir()
    names = re.findall(r"file: secrets/(\w+)", (folder / "compose.yaml").read_text())
    text = {name: secrets.token_hex(24) for name in names}
    text["webhook_key"] = urlsafe_b64encode(os.urandom(32)).decode()
    for name, secret in text.items():
        (folder / "secrets" / name).write_text(secret)
        (folder / "secrets" / name).chmod(0o644)


def train_and_kill(compose: Compose) -> tuple[str, set[str]]:
    """The run that was killed, and those that had finished by then."""
    training = compose.start(*MLFLOW_RUN, *parameters(SHORT))
    what = f"{KILLED} has done {KILLED_AFTER} epochs"
    wait_until(lambda: epochs_of(KILLED) >= KILLED_AFTER, what, 900, training)
    call("podman", "kill", "--signal", "KILL", compose.container_of("train"))
    training.wait()
    found = runs()
    (killed,) = [run.info.run_id for run in found if stage_of(run) == KILLED]
    finished = {run.info.run_id for run in found if stage_of(run) and run.info.status == "FINISHED"}
    print(f"killed with SIGKILL after epoch {epochs_of(KILLED)} of {KILLED}, run {killed}", flush=True)
    return killed, finished


def train(compose: Compose) -> None:
    compose(*MLFLOW_RUN, *parameters(SHORT))


def stage(compose: Compose, name: str, **settings: str) -> None:
    compose(*MLFLOW_RUN, "--entry-point", name, *parameters(settings))


def parameters(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-P", f"{name}={value}")]


def check_continued(killed: str, finished: set[str]) -> None:
    """Ends the trial where what was done before the kill was done once more."""
    stages = [run for run in runs() if stage_of(run)]
    ended = {run.info.run_id: stage_of(run) for run in stages if run.info.status == "FINISHED"}
    times = Counter(stage for stage in ended.values() if stage != "finetune_device")
    if not {killed, *finished} <= set(ended) or max(times.values()) > 1:
        sys.exit(f"production: run {killed} of {KILLED} did not go on, or stages were done twice: {times}")
    print(f"run {killed} of {KILLED} went on and has finished; each stage has one run: {', '.join(times)}")


def runs() -> list[Run]:
    client = mlflow.MlflowClient()
    return list(client.search_runs([one.experiment_id for one in client.search_experiments()]))


def stage_of(run: Run) -> str:
    return run.data.tags.get(STAGE, "")


def epochs_of(name: str) -> int:
    """How many epochs the stage's unfinished run has logged."""
    try:
        found = [run for run in runs() if stage_of(run) == name]
        return max((int(run.data.metrics.get("epoch", -1)) + 1 for run in found), default=0)
    except mlflow.MlflowException:
        return 0  # the server is about to start


def version_of(router: str) -> str:
    """The version that answers for the device; empty while nobody answers."""
    try:
        text = requests.get(f"{router}/metrics", timeout=5).text
    except requests.RequestException:
        return ""
    found = re.search(rf'^adaptf_model\{{device="{DEVICE}".*version="([^"]+)"\}} 1', text, re.M)
    return found[1] if found else ""


def ready(router: str) -> dict[str, object]:
    try:
        return dict(requests.get(f"{router}/health", timeout=5).json())
    except (requests.RequestException, ValueError):
        return {}


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
            sys.exit(f"production: {what}: that has not come about in {time.monotonic() - begun:.0f} s")
        time.sleep(0.5)
    print(f"{what} (after {time.monotonic() - begun:.1f} s)", flush=True)


def check_client(client: Client) -> None:
    """Ends the trial where a request was lost, or not every version has answered."""
    print(
        f"\nThe client: {client.answered} answers, {len(client.lost)} lost; {client.again} times a request "
        f"was sent again, the longest took {client.longest_seconds:.1f} s; by version: {dict(client.versions)}"
    )
    if client.lost:
        sys.exit(f"production: {len(client.lost)} requests were lost, the first one: {client.lost[0]}")
    if set(client.versions) != {f"adaptf-{DEVICE}/1", f"adaptf-{DEVICE}/2"}:
        sys.exit("production: not both versions have answered")


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
    main()
