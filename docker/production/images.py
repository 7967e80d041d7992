"""Builds the images with podman, on those of an image registry or, where none answers, on Debian's packages.

    python docker/production/images.py >> docker/.env

writes which images of others Compose is to take.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from engine import bring_engine, call, says

ROOT = Path(__file__).parents[2]
BASE, DEBIAN_BASE = "docker.io/library/python:3.11-slim-trixie", "localhost/adaptf-debian-python"
REGISTRY_IMAGES = {
    "PYTHON_IMAGE": BASE,
    "POSTGRES_IMAGE": "docker.io/library/postgres:17",
    "S3_IMAGE": "docker.io/chrislusf/seaweedfs:4.48",
}
"""Variable of compose.yaml -> what it is where a registry is reached."""
STAND_INS = {
    "PYTHON_IMAGE": DEBIAN_BASE,
    "POSTGRES_IMAGE": "localhost/adaptf-debian-postgres",
    "S3_IMAGE": "localhost/adaptf-debian-s3",
}
INCLUDED = "python3,python3-pip,python3-venv,ca-certificates,tzdata,netbase"
SUITE = "bookworm"
"""The release of Debian that has Python 3.11."""


def make_images(folder: Path) -> dict[str, str]:
    """Builds what is not there yet; the values of compose.yaml's variables for foreign images."""
    if all(_there(image) or _pulled(image) for image in REGISTRY_IMAGES.values()):
        images, extra = REGISTRY_IMAGES, []
    else:
        print("Debian's Python and PostgreSQL and PyPI's SeaweedFS stand in", file=sys.stderr)
        images, extra = STAND_INS, ["postgres", "s3"]
        if not _there(DEBIAN_BASE):
            _debian_base(folder)
    base = images["PYTHON_IMAGE"]
    lanes = [
        [("docker/train.Dockerfile", "", "adaptf-train")],
        [("docker/serve.Dockerfile", target, f"adaptf-{target}") for target in ("tracking", "router")]
        + [("docker/production/stand-ins.Dockerfile", name, f"adaptf-debian-{name}") for name in extra],
    ]
    pip = _as_pip_is_set_up_here(folder)
    with ThreadPoolExecutor(len(lanes)) as pool:
        for done in [pool.submit(_build_all, lane, base, pip, folder) for lane in lanes]:
            done.result()
    return images


def _there(image: str) -> bool:
    return subprocess.run(["podman", "image", "exists", image]).returncode == 0


def _pulled(image: str) -> bool:
    done = subprocess.run(["podman", "pull", "--quiet", image], capture_output=True, text=True)
    if done.returncode:
        print(f"{image} can't be pulled: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
    return done.returncode == 0


def _debian_base(folder: Path) -> None:
    """Debian's Python, where pip installs for all, as in Python's own image."""
    if os.geteuid():
        sys.exit("production: without an image registry debootstrap makes the base, which root alone may run")
    with TemporaryDirectory(dir=folder) as root:
        call("debootstrap", "--variant=minbase", f"--include={INCLUDED}", SUITE, root)
        for useless in ("usr/lib/python3*/EXTERNALLY-MANAGED", "var/cache/apt/archives/*.deb"):
            for file in Path(root).glob(useless):
                file.unlink()
        (Path(root) / "usr/bin/python").symlink_to("python3")
        call("tar", "--create", f"--directory={root}", f"--file={folder}/base.tar", ".")
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    call("podman", "import", "--quiet", f"--change=ENV PATH={path}", folder / "base.tar", DEBIAN_BASE)
    (folder / "base.tar").unlink()


def _as_pip_is_set_up_here(folder: Path) -> list[str]:
    """Options by which builds take packages from where this machine does; no image tells where that is."""
    listed = says(sys.executable, "-m", "pip", "config", "list")
    pairs = [line.replace("'", "").replace("\\n", " ").split("=", 1) for line in listed.splitlines()]
    values = {name.rpartition(".")[2]: value for name, value in pairs}
    lines = [f"{name} = {value}\n" for name, value in values.items()]
    (folder / "pip.conf").write_text("".join(["[global]\n", *lines]))
    words = [word for value in values.values() for word in value.split() if _is_local(word)]
    named = [Path(urlsplit(word).path) for word in words]
    places = {_package_folder(place) for place in named if place.exists()}
    mounts = [f"--volume={place}:{place}:ro" for place in sorted(places)]
    return [f"--volume={folder}/pip.conf:/etc/pip.conf:ro", *mounts]


def _is_local(word: str) -> bool:
    return word.startswith(("/", "file://"))


def _package_folder(place: Path) -> Path:
    """An index in the folder `simple` links to files beside it."""
    return place.parent if place.name == "simple" else place


def _build_all(lane: list[tuple[str, str, str]], base: str, pip: list[str], folder: Path) -> None:
    for dockerfile, target, image in lane:
        begun = time.monotonic()
        command = ["podman", "build", "--pull=never", "--format=docker", "--network=host", *pip]
        command += [f"--build-arg=PYTHON_IMAGE={base}", f"--file={ROOT / dockerfile}"]
        command += [f"--tag=localhost/{image}"] + [f"--target={target}"] * bool(target)
        log = folder / f"{image}.log"
        ended = _logged(command, log) and _logged(command, log)  # an index may stumble, and layers are kept
        if ended:
            last = "\n".join(log.read_text().splitlines()[-15:])
            sys.exit(f"production: {image} can't be built from {dockerfile} on {base}:\n{last}")
        size = int(says("podman", "image", "inspect", "--format={{.Size}}", image)) / 1e9
        print(f"{image}: {size:.2f} GB, {time.monotonic() - begun:.0f} s", file=sys.stderr)


def _logged(command: list[str], log: Path) -> int:
    with log.open("w") as written:
        return subprocess.run([*command, str(ROOT)], stdout=written, stderr=subprocess.STDOUT).returncode


if __name__ == "__main__":
    with TemporaryDirectory(prefix="adaptf-images-") as temporary:
        bring_engine(Path(temporary))
        for name, image in make_images(Path(temporary)).items():
            print(f"{name}={image}")
