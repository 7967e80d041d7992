"""What the store has of a model: its bundle and its code, fetched and held against what was registered."""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from adaptf.errors import UserError
from adaptf.files import sha256_of
from adaptf.serving.bundle import BUNDLE, BundleError, bundle_hash, check_files
from adaptf.tracking.registry import BUNDLE_HASH, CODE_HASH

_CODE = "code"
"""MLflow's name of the folder of a model's code."""
ARCHIVE = "adaptf.zip"
"""In that folder: the code that answers. Versions of before have the whole package there, file by file."""


class Refused(UserError):
    """A version whose files are not what was registered: nothing else is taken in its place."""


def download_bundle(name: str, version: str, folder: Path) -> Path:
    """The bundle of a registered version, downloaded into a folder and checked. Raises UserError where the
    version holds none, or another one than it was registered with."""
    return bundle_behind(f"models:/{name}/{version}", folder, what=f"{name} version {version}")


def bundle_behind(uri: str, folder: Path, *, what: str) -> Path:
    """That of a model, downloaded into a folder.
    Raises UserError, which calls the model `what`, where it has none.

    Of a version it is the bundle that a run of this store wrote, or UserError is raised: its .pt2 files can
    run code when they are opened.
    A folder or a logged model that a user names is taken as it is.
    """
    try:
        # Not get_model_info, which asks this store for the id that a copied model had where it was logged.
        artifacts = Model.load(uri).flavors["python_function"]["artifacts"]
        bundle = _download(uri, artifacts[BUNDLE]["path"], folder)
    except (MlflowException, OSError, KeyError) as error:
        raise UserError(
            f"{what} has no bundle that can be read: it was not registered by `register`, or its files are "
            f"gone ({error!r})"
        ) from error
    _check(uri, bundle, _check_bundle, what=what)
    return bundle


def code_behind(uri: str, folder: Path, *, what: str) -> Path:
    """That of a model, downloaded into a folder: what Python imports the version's `adaptf` from.

    Of a version it is the code that a run of this store wrote, or UserError is raised, which calls the model
    `what`; as where it has none.
    """
    try:
        code = _download(uri, _CODE, folder)
    except (MlflowException, OSError) as error:
        raise UserError(f"{what} has no code that can be read: its files are gone ({error!r})") from error
    _check(uri, code, _check_code, what=what)
    archive = code / ARCHIVE
    return archive if archive.is_file() else code


def _download(uri: str, path: str, folder: Path) -> Path:
    return Path(mlflow.artifacts.download_artifacts(f"{_place_of(uri)}/{path}", dst_path=str(folder)))


def _place_of(uri: str) -> str:
    """What a path may follow: MLflow takes none behind the id of a logged model."""
    logged = re.fullmatch(r"models:/(m-\w+)", uri)
    return str(mlflow.get_logged_model(logged[1]).artifact_location) if logged else uri


def _check(uri: str, files: Path, check: Callable[[ModelVersion, Path], None], *, what: str) -> None:
    """Removes the files of a version, and raises UserError, where they are not those that were registered."""
    if not (version := re.fullmatch(r"models:/([^/]+)/(\d+)", uri)):
        return
    try:
        check(mlflow.MlflowClient().get_model_version(*version.groups()), files)
    except (BundleError, OSError, MlflowException) as error:
        shutil.rmtree(files)  # nobody takes them for some that were checked
        kind = UserError if isinstance(error, MlflowException) else Refused
        raise kind(f"{what}: {error}") from error


def _check_bundle(version: ModelVersion, bundle: Path) -> None:
    """The hash of a bundle says what all of its files are."""
    check_files(bundle, version.tags.get(BUNDLE_HASH, ""))
    _check_written(version, BUNDLE_HASH, bundle_hash(bundle))


def _check_code(version: ModelVersion, code: Path) -> None:
    """Of versions of before, nothing says what it was."""
    archive = code / ARCHIVE
    _check_written(version, CODE_HASH, sha256_of(archive) if archive.is_file() else "")


def _check_written(version: ModelVersion, tag: str, sha256: str) -> None:
    """Raises BundleError where no run of this store wrote the files with this hash.

    A run says so by a tag; or it keeps no hashes of the kind, and the files are among its own: it copied them
    from another store, or is of a version of adaptf that kept none.
    """
    if sha256 and f"{tag}.{sha256}" in _tags_of(version.run_id):
        return
    holding = _tags_of_holding_run(version)
    if holding is None or any(name.startswith(f"{tag}.") for name in holding):
        raise BundleError(
            "no run of `register` in this store says that it wrote these files, and a .pt2 file can run code "
            "when it is opened: register the run of `quantize` here (mlflow run . -e register -P "
            "quantize_run=...), or log a model of another store into a run of this one (docs/serving.md)"
        )


def _tags_of_holding_run(version: ModelVersion) -> Mapping[str, str] | None:
    """Of the run among whose artifacts, or in whose logged model, the version's files lie;
    None where there is none.

    By the place that the store gave the version when it was made: what the version says of itself, and what
    it was copied from, may have changed since.
    """
    place = mlflow.MlflowClient().get_model_version_download_uri(version.name, version.version)
    if named := re.search(r"/(m-\w+)/artifacts$", place):
        logged = mlflow.get_logged_model(named[1])
        return _tags_of(logged.source_run_id) if logged.artifact_location == place else None
    root = mlflow.get_run(version.run_id).info.artifact_uri.rstrip("/") if version.run_id else ""
    inside = bool(root) and place.startswith(f"{root}/") and ".." not in unquote(place).split("/")
    return _tags_of(version.run_id) if inside else None


def _tags_of(run_id: str | None) -> Mapping[str, str]:
    """None without a run."""
    return dict(mlflow.get_run(run_id).data.tags) if run_id else {}
