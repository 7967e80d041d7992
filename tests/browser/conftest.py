"""MLflow's pages in headless Chromium,
over a store that the project's own stages filled from a few clips of noise."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from fixtures.noise_data import write_tau
from fixtures.serving import free_port, outside_environment, running
from fixtures.store import in_store

from adaptf.mlproject.compare import COMPARE, CompareConfig
from adaptf.mlproject.main import MAIN, MainConfig
from adaptf.pipeline.artifacts import DONE
from adaptf.pipeline.command_line import parse
from adaptf.pipeline.stage import execute
from adaptf.tracking import runs

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LONGEST_MS = 60_000
OPEN_WITHOUT_ASSISTANT = """
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
localStorage.setItem('_mlflow_model_registry_promo_modal_dismissed_v1', 'true');
"""
"""What a user would close first."""
PRESET = """
mel: {bands: 64}
model: {width: 8, depth: 6}
trainer: {accelerator: cpu, workers: 0, progress_bar: false}
teacher_kinds: [ssl]
train: {optim: {lr: 0.01, max_epochs: 2, batch_size: 16}}
teacher: {small: {width: 8, mel: {bands: 64}, optim: {max_epochs: 1, batch_size: 16}}}
distill: {optim: {max_epochs: 1, batch_size: 16}}
finetune: {devices: [a], min_clips: 1, min_validation_clips: 1, optim: {max_epochs: 1, batch_size: 16}}
quantize: {tolerable_loss: 1.0, tolerable_logit_error: 10, calibration_clips: 8, min_validation_clips: 1}
promote: {tolerable_loss: 1.0, tolerable_logit_error: 10}
"""


@pytest.fixture(scope="module")
def executable() -> str:
    """The browser of the distribution."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed ({', '.join(BROWSERS)})")
    return found


@pytest.fixture(scope="module")
def store(executable: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a store in which `main` and `compare` have run."""
    folder = tmp_path_factory.mktemp("browser")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    torch.set_num_threads(1)
    with in_store(uri, folder / "artifacts", experiment="scenes", ADAPTF_WORK=str(folder / "work")):
        fill(folder)
        yield folder


def fill(folder: Path) -> None:
    """`main` from data to production, then `compare` of two of its runs."""
    preset = folder / "tiny.yaml"
    preset.write_text(PRESET)
    given = {
        "preset": preset,
        "data.root": write_tau(folder / "tau", scenes=("airport", "bus")),
        "data.scenes": "airport,bus",
        "data.cache": folder / "cache",
        "data.validation_share": 0.25,
        "data.workers": 1,
    }
    config = parse(MainConfig, stage="main", arguments=[f"--{name}={value}" for name, value in given.items()])
    done = mlflow.get_run(execute(MAIN, config)).data.tags
    compared = ",".join(done[f"{DONE}{stage}"] for stage in ("train", "distill"))
    execute(COMPARE, CompareConfig(compared, prepare_run=done[f"{DONE}prepare_scenes"], accelerator="cpu"))


@pytest.fixture(scope="module")
def address(store: Path) -> Iterator[str]:
    """Of a server on the store."""
    database, port = store / "mlflow.db", free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    found = f"http://127.0.0.1:{port}"
    with running(command, found, store / "server.log", cwd=store, env=outside_environment()):
        yield found


@pytest.fixture(scope="module")
def browser(executable: str) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(
            executable_path=executable, args=["--no-sandbox"]
        )  # root, in a container
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A new tab, whose picture goes into the folder $ADAPTF_SCREENSHOTS at the end of the test."""
    tab = browser.new_page(viewport={"width": 1280, "height": 1800}, base_url=address)
    tab.add_init_script(OPEN_WITHOUT_ASSISTANT)
    tab.set_default_timeout(LONGEST_MS)
    yield tab
    if folder := os.environ.get("ADAPTF_SCREENSHOTS"):
        tab.screenshot(path=str(Path(folder) / f"{request.node.name}.png"))
    tab.close()


@pytest.fixture
def run_of(store: Path) -> Callable[[str], Any]:
    """The newest run of a stage."""
    return lambda stage: mlflow.get_run(runs.latest(stage, {}))
