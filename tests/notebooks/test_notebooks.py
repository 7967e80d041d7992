"""The notebooks: executed on a tiny store as `make demo` leaves it, and fit to be committed."""

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient
from nbformat import NotebookNode

import adaptf
from adaptf.demo.data_sets import write_demo
from adaptf.errors import UserError
from adaptf.mlproject.main import MAIN, MainConfig
from adaptf.pipeline.command_line import parse
from adaptf.pipeline.stage import execute

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NAMES = ("tour", "comparing_runs", "what_the_router_hears")
TINY_DATA = {
    "training_locations": 4,
    "clips_per_training_location": 1,
    "device_share": 0.2,
    "test_locations": 2,
    "clips_per_test_location": 1,
    "evaluation_locations": 1,
    "clips_per_evaluation_location": 1,
    "audioset_clips": 48,
    "audioset_seconds": 1.0,
}
TINY = """
data: {audioset_clip_seconds: 1.0, validation_share: 0.25, workers: 1}
mel: {bands: 64}
model: {width: 8, depth: 2}
trainer: {accelerator: cpu, workers: 0, progress_bar: false}
teacher_kinds: [ssl]
pretrain: {optim: {max_epochs: 1, batch_size: 32}}
train: {optim: {lr: 0.01, max_epochs: 2, restart_epochs: 2, batch_size: 32}}
teacher: {small: {width: 8, mel: {bands: 64}, optim: {max_epochs: 1, restart_epochs: 1, batch_size: 32}}}
distill: {optim: {max_epochs: 2, restart_epochs: 2, batch_size: 32}}
finetune: {devices: [a], min_clips: 20, optim: {max_epochs: 1, restart_epochs: 1, batch_size: 32}}
quantize: {tolerable_loss: 1.0, tolerable_logit_error: 10, calibration_clips: 32}
promote: {tolerable_loss: 1.0, tolerable_logit_error: 10}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the notebooks in which `main` has finished, and from which kernels start."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(NOTEBOOKS, folder / "notebooks", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    write_demo(folder / "demo_data", **TINY_DATA)
    (folder / "tiny.yaml").write_text(TINY)
    write_kernel_spec(
        folder / "jupyter" / "kernels" / "python3"
    )  # of this interpreter, whatever else is installed
    former = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in (
            "MLFLOW_TRACKING_URI",
            "MLFLOW_RUN_ID",
            "MLFLOW_EXPERIMENT_NAME",
            "MLFLOW_EXPERIMENT_ID",
            "ADAPTF_DEMO",
        ):
            patch.setenv(name, "")  # so that what a stage sets is taken away again
            patch.delenv(name)
        patch.setenv("ADAPTF_PRESET", str(folder / "tiny.yaml"))
        patch.setenv("PYTHONPATH", str(Path(adaptf.__file__).parents[1]))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "jupyter" / "runtime"))
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        folders = [
            f"--{name}.root=demo_data/{part}" for name, part in (("data", "tau"), ("audioset", "audioset"))
        ]
        execute(MAIN, parse(MainConfig, stage="main", arguments=["--preset=tiny.yaml", *folders]))
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
        yield folder
    mlflow.set_tracking_uri(former)


def executed(project: Path, name: str) -> NotebookNode:
    """A notebook with its outputs. Raises CellExecutionError."""
    folder = project / "notebooks"
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    return NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def finished(stage: str) -> int:
    return len(
        mlflow.search_runs(["0"], f"tags.`adaptf.stage` = '{stage}' and attributes.status = 'FINISHED'")
    )


@pytest.mark.slow
def test_the_tour_takes_what_the_demo_has_finished_and_ends_with_an_answer(project: Path):
    found = outputs(executed(project, "tour"))
    once = ("pretrain", "train", "teacher", "finetune", "quantize", "evaluate", "register")
    assert {stage: finished(stage) for stage in once} == dict.fromkeys(once, 1)
    assert (finished("distill"), finished("promote")) == (2, 2)
    assert any("device_used" in output.get("data", {}).get("text/html", "") for output in found)
    assert "adaptf-router version 1, in production" in found[-1].text


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pictures"), [("comparing_runs", 3), ("what_the_router_hears", 7)])
def test_a_notebook_runs_on_what_the_demo_leaves(project: Path, name: str, pictures: int):
    found = outputs(executed(project, name))
    assert sum("image/png" in output.get("data", {}) for output in found) == pictures
    assert not [output.text for output in found if output.get("name") == "stderr"]


def test_without_the_demo_it_is_said_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("ADAPTF_DEMO", raising=False)
    copy = tmp_path / "notebooks" / "demo_store.py"
    copy.parent.mkdir()
    shutil.copy(NOTEBOOKS / copy.name, copy)
    specification = importlib.util.spec_from_file_location("demo_store", copy)
    assert specification and specification.loader
    demo_store = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(demo_store)
    with pytest.raises(UserError, match=r"there is no demo data in .*: run `make demo`"):
        demo_store.open_demo()
    (tmp_path / "demo_data" / "tau").mkdir(parents=True)
    with pytest.raises(UserError, match=r"there is no mlflow.db in .*: run `make demo`"):
        demo_store.open_demo()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_a_kernel_writes_is_committed(name: str):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


def test_every_notebook_is_tested():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(NAMES)


def test_no_notebook_names_a_folder_of_one_machine():
    for path in NOTEBOOKS.iterdir():
        if path.is_file():
            assert not re.search(r"[\"'\s(](/|~/|[A-Z]:\\)\w", path.read_text()), path
