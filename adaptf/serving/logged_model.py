"""The router as a model of MLflow: a bundle logged with the code that serves it, and the bundle of a registered version."""

import warnings
from dataclasses import asdict
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

import adaptf
from adaptf.errors import UserError
from adaptf.serving.bundle import BUNDLE, read_bundle
from adaptf.serving.requests import WANTED_COLUMNS
from adaptf.serving.settings import Settings
from adaptf.serving.signature import example_request, signature

_ROUTER = Path(__file__).with_name("router.py")
"""By its path: importing the file would offer it to MLflow as the model to log."""
_REQUIREMENTS = (
    "mlflow",
    "torch",
    "torchao",
    "openvino",
    "numpy",
    "pandas",
    "soundfile",
    "soxr",
    "prometheus_client",
)
"""What serving a router needs: the versions installed here are written into the model."""


def log_router(bundle: Path, name: str) -> str:
    """Logs a bundle's folder as a model of the active run; returns the model's URI.

    The model holds this package's source and the installed versions of what it imports, so it needs nothing of this
    machine. Raises BundleError (a ValueError) where the bundle cannot be served.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*An input example was not provided")
        read_bundle(bundle)
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(_ROUTER),
            artifacts={BUNDLE: str(bundle)},
            code_paths=[str(Path(adaptf.__file__).parent)],
            pip_requirements=_installed_requirements(),
            signature=signature(),
            model_config=asdict(Settings()),
            # MLflow's own input example would load every network once more for each model that is logged.
            metadata={"request": WANTED_COLUMNS, "example": example_request()},
        )
    return str(logged.model_uri)


def _installed_requirements() -> list[str]:
    """Exact versions, without a local part such as `+cpu`, which no index would find; OpenVINO where it is installed."""
    there = [package for package in _REQUIREMENTS if package != "openvino" or find_spec(package)]
    return [f"{package}=={installed_version(package).partition('+')[0]}" for package in there]


def download_bundle(name: str, version: str, folder: Path) -> Path:
    """The bundle of a registered version, downloaded into a folder. Raises UserError where the version holds none."""
    return bundle_behind(f"models:/{name}/{version}", folder, what=f"{name} version {version}")


def bundle_behind(uri: str, folder: Path, *, what: str) -> Path:
    """That of a logged model, downloaded into a folder. Raises UserError, which calls the model `what`, where it has none."""
    try:
        artifacts = mlflow.models.get_model_info(uri).flavors["python_function"]["artifacts"]
        return Path(
            mlflow.artifacts.download_artifacts(f"{uri}/{artifacts[BUNDLE]['path']}", dst_path=str(folder))
        )
    except (MlflowException, OSError, KeyError) as error:
        raise UserError(
            f"{what} has no bundle that can be read: it was not registered by `register`, or its files are gone ({error!r})"
        ) from error
