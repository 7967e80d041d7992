"""Small random networks in a bundle, MLflow on a temporary SQLite store, and server processes that always end."""

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import mlflow
import numpy as np
import pytest
import soundfile
import torch

from adaptf.compression.int8 import save_int8
from adaptf.compression.quantize import quantize_int8, save_forms
from adaptf.compression.runtime import Network, load_network
from adaptf.models.tfsepnet import TfSepNet
from adaptf.tracking.bundle import write_bundle

SCENES = [
    "airport", "bus", "metro", "metro_station", "park",
    "public_square", "shopping_mall", "street_pedestrian", "street_traffic", "tram",
]  # fmt: skip
BANDS, RATE = 64, 32000
VERSIONS = {"a": "adaptf-a/1", "b": "adaptf-b/2", "unknown": "adaptf-unknown/3"}
BUNDLE_VALUES = {
    "scenes": SCENES, "mel": {"bands": BANDS}, "sample_rate": RATE, "clip_samples": RATE, "max_seconds": 60,
}  # fmt: skip


@pytest.fixture(scope="session")
def scenes() -> list[str]:
    return SCENES


@pytest.fixture(scope="session")
def versions() -> dict[str, str]:
    return VERSIONS


@pytest.fixture(scope="session")
def network_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By device; random, so no two answer alike, and shallow, so that they are soon quantized and loaded.

    Only that of device a has the OpenVINO form too: loading it takes longer.
    """
    folder = tmp_path_factory.mktemp("networks")
    files = {device: folder / f"{device}.pt2" for device in VERSIONS}
    for seed, (device, file) in enumerate(files.items()):
        torch.manual_seed(seed)
        network = TfSepNet(classes=len(SCENES), width=8, depth=4)
        quantized = quantize_int8(network, [torch.randn(8, 1, BANDS, 64)])
        if device == "a":
            save_forms(quantized, file)
        else:
            save_int8(quantized.program(), file)
    return files


@pytest.fixture(scope="session")
def networks(network_files: dict[str, Path]) -> dict[str, Network]:
    return {device: load_network(file) for device, file in network_files.items()}


@pytest.fixture(scope="session")
def make_bundle(network_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A new bundle of the devices named; keyword arguments replace what `write_bundle` is given.

    `network_of`: the device whose network stands for `unknown` in a bundle with nothing else, as in a device's own model.
    """

    def make(*devices: str, network_of: str = "", **changed: object) -> Path:
        folder = tmp_path_factory.mktemp("bundle") / "bundle"
        models = {device: (network_files[network_of or device], VERSIONS[device]) for device in devices}
        write_bundle(folder, models, **(BUNDLE_VALUES | changed))
        return folder

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle("a", "b", "unknown")


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    """Waveform (samples,), the same for the same seed."""
    return lambda samples, seed=0: 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


@pytest.fixture(scope="session")
def encoded() -> Callable[..., str]:
    """base64 of an audio file's bytes."""

    def encode(waveform: np.ndarray, rate: int = RATE, file_format: str = "WAV", subtype: str | None = None) -> str:
        file = BytesIO()
        soundfile.write(file, waveform, rate, format=file_format, subtype=subtype)
        return base64.b64encode(file.getvalue()).decode()

    return encode


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Creating its tables takes seconds: made once, then copied."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="module")
def database(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copy(empty_database, tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def tracked() -> Callable[[str], object]:
    """A context in which a tracking URI is in force, also for processes started inside, and unpickling is forbidden."""

    @contextmanager
    def track(uri: str) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", uri)
            patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
            patch.setenv("OMP_NUM_THREADS", "1")
            for left_by_a_stage in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
                patch.delenv(left_by_a_stage, raising=False)
            former = mlflow.get_tracking_uri()
            mlflow.set_tracking_uri(uri)
            yield
            mlflow.set_tracking_uri(former)

    return track


@pytest.fixture(scope="module")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the servers run, and keep their output as PORT.log."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="module")
def serve(server_folder: Path) -> Iterator[Callable[..., str]]:
    """Starts `mlflow ...` on a free port, waits until it answers, and returns its address; all end with the module."""
    folder, processes = server_folder, []

    def start(*arguments: str, environment: dict[str, str] | None = None) -> str:
        port = free_port()
        log = folder / f"{port}.log"
        command = [sys.executable, "-m", "mlflow", *arguments, "--host", "127.0.0.1", "--port", str(port)]
        with log.open("wb") as output:
            # A session of its own, because workers outlive a killed parent; a folder without adaptf's source.
            environment = outside_environment() | (environment or {})
            process = subprocess.Popen(
                command, stdout=output, stderr=output, cwd=folder, env=environment, start_new_session=True
            )
        processes.append(process)
        wait_until_healthy(f"http://127.0.0.1:{port}", process, log)
        return f"http://127.0.0.1:{port}"

    try:
        yield start
    finally:
        for process in processes:
            end_group(process)


@pytest.fixture(scope="session")
def unused_port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def outside() -> dict[str, str]:
    return outside_environment()


def outside_environment() -> dict[str, str]:
    """An environment in which adaptf's source is on no path, and `uvicorn`, which MLflow calls by name, is."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PATH": path}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(address: str, process: subprocess.Popen[bytes], log: Path, limit_seconds: float = 180.0) -> None:
    end = time.monotonic() + limit_seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"no answer from {address}:\n{log.read_text()}")


def end_group(process: subprocess.Popen[bytes]) -> None:
    for sign, wait_seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, sign)
            process.wait(wait_seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
