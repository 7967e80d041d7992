"""Where the notebooks begin: what `make demo` has left, its store, its sounds and its settings."""

import logging
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from cycler import cycler

with warnings.catch_warnings():
    warnings.filterwarnings(
        "ignore", message="IProgress not found"
    )  # tqdm does without widgets, and says so in red
    import mlflow

    from adaptf.errors import UserError
    from adaptf.mlproject.main import MainConfig
    from adaptf.pipeline.command_line import parse
    from adaptf.pipeline.stage import quiet_libraries
    from adaptf.reports.figures import DEVICE_COLOURS
    from adaptf.serving import log_lines
    from adaptf.tracking import runs

PROJECT = Path(__file__).resolve().parent.parent
PRESET, SOUNDS = "ADAPTF_PRESET", "ADAPTF_DEMO"
"""Environment variables: the preset of `main` (demo) and the folder of the demo data (demo_data)."""


@dataclass(frozen=True)
class Demo:
    """What a notebook works on."""

    tau: Path
    """Folder of the scenes, in the layout of TAU 2022 Mobile."""
    config: MainConfig
    """The settings of all stages, as `make demo` gave them."""


def open_demo() -> Demo:
    """Goes to the project's folder and opens the store there, or that of MLFLOW_TRACKING_URI.

    Raises UserError that says what to run where sounds or runs are missing.
    """
    os.chdir(PROJECT)  # paths in the settings begin there
    folder = Path(os.environ.get(SOUNDS, "demo_data"))
    if not (folder / "tau").is_dir():
        raise UserError(
            f"there is no demo data in {folder.absolute()}: run `make demo`, or say in {SOUNDS} where it is"
        )
    if "MLFLOW_TRACKING_URI" not in os.environ and not Path(runs.DEFAULT_STORE).is_file():
        raise UserError(
            f"there is no {runs.DEFAULT_STORE} in {PROJECT}: run `make demo`, or set MLFLOW_TRACKING_URI"
        )
    show_what_stages_say()
    runs.use_default_store()
    runs.latest("main", {})
    use_the_colours_of_the_reports()
    return Demo(folder / "tau", demo_settings(folder))


def artifact(run_id: str, path: str) -> str:
    """A local file with what a run left under that path."""
    return str(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path))


def demo_settings(folder: Path) -> MainConfig:
    """Those of `make demo`, so that its runs are found again."""
    given = {
        "preset": os.environ.get(PRESET, "demo"),
        "data.root": f"{folder}/tau",
        "audioset.root": f"{folder}/audioset",
    }
    return parse(MainConfig, stage="main", arguments=[f"--{name}={value}" for name, value in given.items()])


def show_what_stages_say() -> None:
    """As on the command line; a router's lines per request are for servers."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    log_lines.LOGGER.setLevel(logging.WARNING)
    quiet_libraries()


def use_the_colours_of_the_reports() -> None:
    """Colours that a colour-blind reader can tell apart, and no frame around figures and legends."""
    plt.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=DEVICE_COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "legend.frameon": False,
        }
    )
