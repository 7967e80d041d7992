"""A live router under load, behind `mlflow models serve`: promotions lose no request and mix no versions."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations

import mlflow
import numpy as np
import pytest
import requests
import torch

from adaptf.audio.logmel import LogMel
from adaptf.compression.int8 import save_int8
from adaptf.compression.quantize import quantize_int8, save_forms
from adaptf.compression.runtime import load_network
from adaptf.models.students.tfsepnet.network import TfSepNet
from adaptf.serving import router_model
from adaptf.serving.bundle import write_bundle
from adaptf.tracking import production, registry

BANDS, RATE = 64, 32000
VERSIONS = ("adaptf-a/1", "adaptf-a/2", "adaptf-b/1", "adaptf-b/2", "adaptf-unknown/1")
DEVICES = ("a", "b", "somebody's phone", "a")
"""Of a request's rows."""
CLIENTS, CHANGES = 4, 20
PICK_UP_SECONDS = 20.0
SAME = 2e-3
"""Highest difference of probabilities from those of the same network in this process:
INT8 may take the next step."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """By version, the INT8 file of a random network; those of device a run by OpenVINO."""
    folder = tmp_path_factory.mktemp("versions")
    found = {version: folder / f"{place}.pt2" for place, version in enumerate(VERSIONS)}
    for seed, (version, path) in enumerate(found.items()):
        torch.manual_seed(seed)
        network, log_mels = TfSepNet(classes=10, width=8, depth=2), torch.randn(8, 1, BANDS, 64)
        if version.startswith("adaptf-a/"):
            save_forms(quantize_int8(network, [log_mels]), path)
        else:
            save_int8(quantize_int8(network, [log_mels]).program(), path)
    return found


@pytest.fixture(scope="module")
def waveform(noise):
    return noise(RATE)


@pytest.fixture(scope="module")
def expected(files, waveform):
    """By version, the probabilities (scenes,) of the clip: no two are near each other."""
    log_mel = LogMel(bands=BANDS)(torch.from_numpy(waveform)[None])
    found = {
        version: load_network(path)(log_mel).double().softmax(dim=1)[0].numpy()
        for version, path in files.items()
    }
    assert min(np.abs(one - other).max() for one, other in combinations(found.values(), 2)) > 10 * SAME
    return found


@pytest.fixture(scope="module")
def address(serve, database, tracked, files, scenes, tmp_path_factory):
    """Of a scoring server whose router follows the registry of a real MLflow server;
    the first versions are promoted."""
    folder = tmp_path_factory.mktemp("registry")
    store = (
        "--backend-store-uri",
        f"sqlite:///{database}",
        "--artifacts-destination",
        (folder / "artifacts").as_uri(),
    )
    values = {
        "scenes": scenes,
        "mel": {"bands": BANDS},
        "sample_rate": RATE,
        "clip_samples": RATE,
        "max_seconds": 60,
    }

    def register(place, name, models):
        write_bundle(folder / place, models, **values)
        version = registry.register(
            router_model.log_router(folder / place, name), name, tags={}, description=place
        )
        if version == "1":
            production.promote(name, version)

    with tracked(serve("server", "--workers", "1", *store)), pytest.MonkeyPatch.context() as patch:
        with mlflow.start_run():
            for version, path in files.items():
                register(version.replace("/", "-"), version.partition("/")[0], {"unknown": (path, version)})
            inside = {device: f"adaptf-{device}/1" for device in ("a", "b", "unknown")}
            models = {device: (files[version], version) for device, version in inside.items()}
            register("router", registry.ROUTER_NAME, models)
        patch.setenv("SERVING_MODEL_CONFIG", json.dumps({"live": True, "check_seconds": 0.2}))
        yield serve(
            "models", "serve", "--env-manager", "local", "--model-uri", f"models:/{registry.ROUTER_NAME}/1"
        )


@dataclass
class Load:
    """What the clients have got."""

    failures: list[str] = field(default_factory=list)
    rows: list[list[dict]] = field(default_factory=list)
    """Of each answer."""
    latest: dict[str, str] = field(default_factory=dict)
    """By device used, the version that answered last."""


@contextmanager
def load_on(address: str, body: dict) -> Iterator[Load]:
    """Clients that send one request after the other."""
    load, stop = Load(), threading.Event()

    def client() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                try:
                    response = session.post(f"{address}/invocations", json=body, timeout=60)
                    response.raise_for_status()
                    rows = response.json()["predictions"]
                except (requests.RequestException, KeyError) as error:
                    load.failures.append(repr(error))
                    continue
                load.rows.append(rows)
                load.latest.update({row["device_used"]: row["version_used"] for row in rows})

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def change(step: int) -> tuple[str, str]:
    """Promotes version 2 of a device or rolls it back to version 1, the devices taking turns;
    returns device and version."""
    device = "ab"[step % 2]
    if step // 2 % 2:
        return device, f"adaptf-{device}/{production.roll_back(f'adaptf-{device}')}"
    production.promote(f"adaptf-{device}", "2")
    return device, f"adaptf-{device}/2"


def wait_for(load: Load, device: str, version: str) -> None:
    end = time.monotonic() + PICK_UP_SECONDS
    while load.latest.get(device) != version:
        assert time.monotonic() < end, (
            f"{version} was not taken up in {PICK_UP_SECONDS:g} s; failures: {load.failures[:3]}"
        )
        time.sleep(0.02)


@pytest.mark.slow
def test_promotions_and_rollbacks_under_load_lose_no_request_and_mix_no_versions(
    address, expected, waveform, encoded, scenes
):
    clip = encoded(waveform, subtype="FLOAT")
    body = {"dataframe_records": [{"audio": clip, "device": device} for device in DEVICES]}
    taken_up = []
    with load_on(address, body) as load:
        for device in ("a", "b", "unknown"):
            wait_for(load, device, f"adaptf-{device}/1")
        for step in range(CHANGES):
            device, version = change(step)
            wait_for(load, device, version)
            taken_up.append(version)
    assert not load.failures
    assert taken_up.count("adaptf-a/2") == taken_up.count("adaptf-b/1") == CHANGES // 4
    for rows in load.rows:
        assert [row["device_used"] for row in rows] == ["a", "b", "unknown", "a"]
        assert rows[0]["version_used"] == rows[3]["version_used"]
        for row in rows:
            answered = np.array([row["probabilities"][scene] for scene in scenes])
            assert np.abs(answered - expected[row["version_used"]]).max() < SAME
    assert {row["version_used"] for rows in load.rows for row in rows} == set(VERSIONS)
    assert len(load.rows) > 5 * CHANGES
