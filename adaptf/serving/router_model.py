"""The router as a model of MLflow: a bundle logged with the code that answers."""

import warnings
from dataclasses import asdict
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow

from adaptf.files import sha256_of
from adaptf.serving.answering_code import write_archive
from adaptf.serving.bundle import BUNDLE, bundle_hash, read_bundle
from adaptf.serving.requests import WANTED_COLUMNS
from adaptf.serving.settings import Settings
from adaptf.serving.signature import example_request, signature
from adaptf.tracking.registry import BUNDLE_HASH, CODE_HASH

_SERVED = Path(__file__).with_name("served.py")
"""By its path: importing the file would offer it to MLflow as the model to log."""
_REQUIREMENTS = (
    "mlflow",
    "torch",
    "torchao",
    "openvino",
    "onnx",
    "onnxruntime",
    "numpy",
    "pandas",
    "soundfile",
    "soxr",
    "prometheus_client",
    "cachetools",
)
"""What serving a router needs: the versions installed here are written into the model."""
_FASTER = ("openvino", "onnx", "onnxruntime")
"""Of these, what it can do without."""


def log_router(bundle: Path, name: str) -> str:
    """Logs a bundle's folder as a model of the active run, which keeps the hashes of the bundle and of the
    code; returns the model's URI.

    The model holds the code that answers and the installed versions of what it imports, so it needs nothing
    of this machine. Raises BundleError where the bundle cannot be served.
    """
    with warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.filterwarnings("ignore", message=".*An input example was not provided")
        read_bundle(bundle)
        code = write_archive(Path(folder))
        mlflow.set_tags(
            {f"{BUNDLE_HASH}.{bundle_hash(bundle)}": name, f"{CODE_HASH}.{sha256_of(code)}": name}
        )
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(_SERVED),
            artifacts={BUNDLE: str(bundle)},
            code_paths=[str(code)],
            pip_requirements=_installed_requirements(),
            signature=signature(),
            model_config=asdict(Settings()),
            # MLflow's own input example would load every network once more for each model that is logged.
            metadata={"request": WANTED_COLUMNS, "example": example_request()},
        )
    return str(logged.model_uri)


def _installed_requirements() -> list[str]:
    """Exact versions, without a local part such as `+cpu`, which no index would find;
    of what runs networks faster, where it is installed."""
    there = [package for package in _REQUIREMENTS if package not in _FASTER or find_spec(package)]
    return [f"{package}=={installed_version(package).partition('+')[0]}" for package in there]
