"""podman with Compose on top of it, set up here where nobody has done so."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

PACKAGES = ["podman", "runc", "debootstrap", "netavark", "aardvark-dns", "iptables", "nftables", "catatonit"]
"""Debian's, of the engine and of what makes a base image where no image registry is reached."""

WITHOUT_SYSTEMD = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
[network]
network_backend = "netavark"
"""
"""Settings of podman that hold inside a container or a small virtual machine too."""

HEALTH_SECONDS = 2.0
_NAMES = Path("/run/containers/networks/aardvark-dns")
"""Where podman's name server, run by root, reads which containers a network has, from a file a network."""


def bring_engine(folder: Path) -> None:
    """podman that answers. Ends the trial, and says why, where there is none and none can be had."""
    if shutil.which("podman") is None:
        if os.geteuid() or shutil.which("apt-get") is None:
            wanted = " ".join(PACKAGES)
            sys.exit(f"production: there is no podman, and only root on Debian gets it here: {wanted}")
        call("apt-get", "-qq", "update")
        call("apt-get", "-qq", "install", "--yes", "--no-install-recommends", *PACKAGES)
    if shutil.which("docker-compose") is None:
        sys.exit("production: there is no docker-compose, which `make production` installs")
    if not Path("/run/systemd/system").is_dir() and "CONTAINERS_CONF" not in os.environ:
        (folder / "containers.conf").write_text(WITHOUT_SYSTEMD)
        os.environ["CONTAINERS_CONF"] = str(folder / "containers.conf")
    call("podman", "info", "--format", "podman {{.Version.Version}}, {{.Host.OCIRuntime.Name}}")


def call(*command: str | Path) -> None:
    """Ends the trial where it fails; what it says is seen."""
    if (ended := subprocess.run(command, stdout=sys.stderr).returncode) != 0:
        sys.exit(f"production: `{' '.join(map(str, command))}` ended with {ended}")


def says(*command: str | Path) -> str:
    """What a command says; empty where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


class Compose:
    """Compose's commands for the project in a folder, whose images are there."""

    def __init__(self, folder: Path, project: str) -> None:
        self.project = project
        self._command = ["docker-compose", "--project-name", project, "--project-directory", str(folder)]

    def show_logs(self) -> None:
        """The last lines of every container, as people look for when something has failed."""
        subprocess.run([*self._command, "--profile", "*", "logs", "--tail", "30"], stdout=sys.stderr)

    def down(self) -> None:
        """Takes containers, networks and volumes away, also those of a trial before."""
        words = ["--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5"]
        subprocess.run([*self._command, *words])
        for names in _NAMES.glob(f"{self.project}_*"):
            names.unlink()  # of containers that were killed: the next ones of these names would not be found

    def containers(self, state: str = "running") -> dict[str, str]:
        """The service of each container that is in this state, by its id."""
        labels = [f"label=com.docker.compose.project={self.project}", f"status={state}"]
        found = says("podman", "ps", "--format", "json", *(f"--filter={label}" for label in labels))
        return {one["Id"]: one["Labels"]["com.docker.compose.service"] for one in json.loads(found or "[]")}

    def container_of(self, service: str) -> str:
        """The id of the one that runs."""
        found = [container for container, name in self.containers().items() if name == service]
        if len(found) != 1:
            sys.exit(f"production: one container of {service} should be running, there are {len(found)}")
        return found[0]


@contextmanager
def composing(folder: Path, project: str) -> Iterator[Compose]:
    """Compose on podman. At the end its containers, networks and volumes go; images stay."""
    with _podman_service(folder):
        compose, over = Compose(folder, project), Event()
        health = Thread(target=_ask_for_health, args=(compose, over))
        try:
            health.start()
            compose.down()
            yield compose
        except BaseException:
            compose.show_logs()
            raise
        finally:
            over.set()
            compose.down()


@contextmanager
def _podman_service(folder: Path) -> Iterator[None]:
    """What Compose asks."""
    socket = folder / "podman.sock"
    os.environ["DOCKER_HOST"] = f"unix://{socket}"
    with (folder / "podman.log").open(
        "w"
    ) as log:  # without systemd it says at each health test that there is none
        service = subprocess.Popen(
            ["podman", "system", "service", "--time=0", os.environ["DOCKER_HOST"]], stderr=log
        )
    try:
        _wait_for(socket)
        yield
    finally:
        service.terminate()
        service.wait()


def _wait_for(file: Path, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not file.exists():
        if time.monotonic() > end:
            sys.exit("production: podman's service has not started")
        time.sleep(0.1)


def _ask_for_health(compose: Compose, over: Event) -> None:
    """podman leaves health tests to systemd's timers, which are not everywhere."""
    while not over.wait(HEALTH_SECONDS):
        for container in compose.containers():
            subprocess.run(["podman", "healthcheck", "run", container], capture_output=True)
