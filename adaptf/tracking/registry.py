"""The model registry: logging routers, registering versions, and which version is in production."""

import base64
import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version as installed_version
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import soundfile
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, DataType, Map, Schema, TensorSpec

import adaptf
from adaptf.tracking.requests import AUDIO, DEVICE, WANTED_COLUMNS

ROUTER_NAME = "adaptf-router"
ALIAS = "production"
PRODUCTION, ARCHIVED = "Production", "Archived"
STAGE_TAG = "stage"
REQUIREMENTS = ("mlflow", "torch", "torchao", "numpy", "pandas", "soundfile", "soxr")
"""What serving a router needs: the versions installed here are written into the model."""


class NoProductionVersion(ValueError):
    """No version of the model was promoted."""


def device_model_name(device: str) -> str:
    """Registered name of a device's model."""
    if device == "router":
        raise ValueError(f"a device cannot be called 'router': {ROUTER_NAME} is the router's own name")
    return f"adaptf-{device}"


def write_bundle(
    folder: Path,
    models: Mapping[str, tuple[Path, str]],
    *,
    scenes: Sequence[str],
    mel: Mapping[str, Any],
    sample_rate: int,
    clip_samples: int,
    max_seconds: float,
) -> None:
    """Writes the folder that `log_router` logs: by device, a copy of its INT8 file and the version that it is.

    `mel` holds the keyword arguments of LogMel. The only device of a model for one device is `unknown`.
    """
    folder.mkdir(parents=True)
    manifest = {
        "scenes": list(scenes),
        "sample_rate": sample_rate,
        "clip_samples": clip_samples,
        "max_seconds": max_seconds,
        "mel": dict(mel),
        "models": {device: {"file": f"{device}.pt2", "version": version} for device, (_, version) in models.items()},
    }
    (folder / "router.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    for device, (file, _) in models.items():
        shutil.copyfile(file, folder / f"{device}.pt2")


def log_router(bundle: Path, name: str, *, run_id: str | None = None) -> str:
    """Logs a bundle's folder as a model of a run, the active one by default; returns the model's URI.

    The model holds this package's source and the installed versions of what it imports, so it needs nothing of this
    machine. Raises BundleError (a ValueError) where the bundle cannot be served.
    """
    from adaptf.tracking import router  # Here, because importing the file offers it to MLflow as the model to log.

    with run_to_log_to(run_id), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*An input example was not provided")
        router.read_bundle(bundle)
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(router.__file__),
            artifacts={router.BUNDLE: str(bundle)},
            code_paths=[str(Path(adaptf.__file__).parent)],
            pip_requirements=installed_requirements(),
            signature=signature(),
            # MLflow's own input example would load every network once more for each model that is logged.
            metadata={"request": WANTED_COLUMNS, "example": example_request()},
        )
    return str(logged.model_uri)


def run_to_log_to(run_id: str | None) -> Any:
    """A context in which the run is active. Raises ValueError where no run is named and none is active."""
    active = mlflow.active_run()
    if active is None and run_id is None:
        raise ValueError("no run is active: start one, or give the id of the run that the model belongs to")
    if run_id is None or (active is not None and active.info.run_id == run_id):
        return nullcontext()
    return mlflow.start_run(run_id=run_id, nested=True)


def signature() -> ModelSignature:
    """What a response holds, as the registry's page shows it.

    There is no input schema, on purpose: with one, MLflow drops unknown columns in silence and words all other errors
    itself, before the router sees the request. The metadata show what a request holds, with an example.
    """
    text = DataType.string
    columns: list[ColSpec | TensorSpec] = [
        ColSpec(text, "scene"),
        ColSpec(DataType.double, "probability"),
        ColSpec(text, "device_asked", required=False),
        ColSpec(text, "device_used"),
        ColSpec(text, "version_used"),
        ColSpec(Map(DataType.double), "probabilities"),
    ]
    return ModelSignature(outputs=Schema(columns))


def example_request() -> dict[str, list[dict[str, str]]]:
    """The JSON of a request: a tenth of a second of a tone, recorded by nobody, as device a."""
    rate_hz, tone_hz = 8000, 500
    tone = 0.1 * np.sin(2 * np.pi * tone_hz * np.arange(rate_hz // 10) / rate_hz)
    file = BytesIO()
    soundfile.write(file, tone, rate_hz, format="FLAC")
    return {"dataframe_records": [{AUDIO: base64.b64encode(file.getvalue()).decode(), DEVICE: "a"}]}


def installed_requirements() -> list[str]:
    """Exact versions, without a local part such as `+cpu`, which no index would find."""
    return [f"{package}=={installed_version(package).partition('+')[0]}" for package in REQUIREMENTS]


def register(model_uri: str, name: str, *, tags: Mapping[str, str], description: str) -> str:
    """Makes a logged model the next version of a registered one, creating that if need be; returns the version."""
    version = mlflow.register_model(model_uri, name, tags=dict(tags))
    mlflow.MlflowClient().update_model_version(name, version.version, description=description)
    return str(version.version)


def promote(name: str, version: str) -> None:
    """Puts a version in production: alias, tag and, where the server still has them, stage; archives the former one.

    The alias comes last: it is what `resolve_production` believes first, so a promotion that breaks off changes nothing
    for readers, and can be repeated. Raises ValueError where there is no such version.
    """
    client = mlflow.MlflowClient()
    versions = {str(found.version): found for found in versions_of(name)}
    if version not in versions:
        raise ValueError(f"{name} has no version {version!r}; there are {sorted(versions, key=int)}")
    move_to_production_stage(client, name, version)
    for number, found in versions.items():
        if number != version and PRODUCTION in (found.current_stage, found.tags.get(STAGE_TAG)):
            client.set_model_version_tag(name, number, STAGE_TAG, ARCHIVED)
    client.set_model_version_tag(name, version, STAGE_TAG, PRODUCTION)
    client.set_registered_model_alias(name, ALIAS, version)


def move_to_production_stage(client: mlflow.MlflowClient, name: str, version: str) -> None:
    """Stages are deprecated since MLflow 2.9 and may be gone, from the client or from the server."""
    transition = getattr(client, "transition_model_version_stage", None)
    if transition is None:
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*transition_model_version_stage.* is deprecated", category=FutureWarning)
        try:
            transition(name, version, PRODUCTION, archive_existing_versions=True)
        except MlflowException as error:
            if error.error_code not in ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"):
                raise


def resolve_production(name: str) -> str:
    """The version in production: the one with the alias, else the newest in the stage. Raises NoProductionVersion."""
    versions = versions_of(name)
    aliases = mlflow.MlflowClient().get_registered_model(name).aliases if versions else {}
    if ALIAS in aliases:
        return str(aliases[ALIAS])
    staged = [int(version.version) for version in versions if version.current_stage == PRODUCTION]
    if not staged:
        there = ", ".join(str(version.version) for version in versions) or "none"
        raise NoProductionVersion(f"no version of {name!r} is in production (versions: {there}): register one and promote it")
    return str(max(staged))


def versions_of(name: str) -> list[ModelVersion]:
    """All versions of a registered model; none where the model does not exist."""
    client = mlflow.MlflowClient()
    quoted = name.replace("'", "''")
    page = client.search_model_versions(f"name='{quoted}'")
    versions = list(page)
    while page.token:
        page = client.search_model_versions(f"name='{quoted}'", page_token=page.token)
        versions += page
    return versions
