"""The router as a model of MLflow:
a bundle logged with the code that serves it, and the bundle of a registered version."""

import re
import shutil
import warnings
from dataclasses import asdict
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

import adaptf
from adaptf.errors import UserError
from adaptf.serving.bundle import BUNDLE, BundleError, bundle_hash, check_files, read_bundle
from adaptf.serving.requests import WANTED_COLUMNS
from adaptf.serving.settings import Settings
from adaptf.serving.signature import example_request, signature
from adaptf.tracking.registry import BUNDLE_HASH, STAGE

_ROUTER = Path(__file__).with_name("router.py")
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


class Refused(UserError):
    """A version whose files are not what was registered: nothing else is taken in its place."""


def log_router(bundle: Path, name: str) -> str:
    """Logs a bundle's folder as a model of the active run, which keeps the bundle's hash;
    returns the model's URI.

    The model holds this package's source and the installed versions of what it imports, so it needs nothing
    of this machine. Raises BundleError where the bundle cannot be served.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*An input example was not provided")
        read_bundle(bundle)
        mlflow.set_tag(f"{BUNDLE_HASH}.{bundle_hash(bundle)}", name)
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
    """Exact versions, without a local part such as `+cpu`, which no index would find;
    of what runs networks faster, where it is installed."""
    there = [package for package in _REQUIREMENTS if package not in _FASTER or find_spec(package)]
    return [f"{package}=={installed_version(package).partition('+')[0]}" for package in there]


def download_bundle(name: str, version: str, folder: Path) -> Path:
    """The bundle of a registered version, downloaded into a folder and checked. Raises UserError where the
    version holds none, or another one than it was registered with."""
    return bundle_behind(f"models:/{name}/{version}", folder, what=f"{name} version {version}")


def bundle_behind(uri: str, folder: Path, *, what: str) -> Path:
    """That of a model, downloaded into a folder.
    Raises UserError, which calls the model `what`, where it has none.

    Of a version it is the bundle that a run of `register` of this store wrote, or UserError is raised: its
    .pt2 files can run code when they are opened.
    A folder or a logged model that a user names is taken as it is.
    """
    try:
        artifacts = mlflow.models.get_model_info(uri).flavors["python_function"]["artifacts"]
        place = f"{_place_of(uri)}/{artifacts[BUNDLE]['path']}"
        bundle = Path(mlflow.artifacts.download_artifacts(place, dst_path=str(folder)))
    except (MlflowException, OSError, KeyError) as error:
        raise UserError(
            f"{what} has no bundle that can be read: it was not registered by `register`, or its files are "
            f"gone ({error!r})"
        ) from error
    if version := re.fullmatch(r"models:/([^/]+)/(\d+)", uri):
        try:
            _check_registered(mlflow.MlflowClient().get_model_version(*version.groups()), bundle)
        except (BundleError, OSError, MlflowException) as error:
            shutil.rmtree(bundle)  # nobody takes it for one that was checked
            kind = UserError if isinstance(error, MlflowException) else Refused
            raise kind(f"{what}: {error}") from error
    return bundle


def _place_of(uri: str) -> str:
    """What a path may follow: MLflow takes none behind the id of a logged model."""
    logged = re.fullmatch(r"models:/(m-\w+)", uri)
    return str(mlflow.get_logged_model(logged[1]).artifact_location) if logged else uri


def _check_registered(version: ModelVersion, bundle: Path) -> None:
    """Raises BundleError where the files are not those that a run of `register` of this store wrote. The hash
    of a bundle says what all of its files are."""
    check_files(bundle, version.tags.get(BUNDLE_HASH, ""))
    sha256 = bundle_hash(bundle)
    if not (_wrote(version.run_id, sha256) if sha256 else _logged_before_hashes(version)):
        raise BundleError(
            "no run of `register` in this store says that it wrote these files, and a .pt2 file can run code "
            "when it is opened: register the run of `quantize` here (mlflow run . -e register -P "
            "quantize_run=...)"
        )


def _wrote(run_id: str | None, sha256: str) -> bool:
    """Whether a run says that it wrote the bundle with this hash."""
    return run_id is not None and f"{BUNDLE_HASH}.{sha256}" in mlflow.get_run(run_id).data.tags


def _logged_before_hashes(version: ModelVersion) -> bool:
    """Whether a run of `register` that kept no hashes yet logged the model,
    which the version may not say of itself."""
    logged = re.fullmatch(r"models:/(m-\w+)", version.source or "")
    run_id = mlflow.get_logged_model(logged[1]).source_run_id if logged else None
    tags = mlflow.get_run(run_id).data.tags if run_id else {}
    return tags.get(STAGE) == "register" and not [tag for tag in tags if tag.startswith(BUNDLE_HASH)]
