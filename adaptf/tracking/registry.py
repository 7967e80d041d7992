"""The model registry: names of registered models, and their versions."""

from collections.abc import Iterable, Mapping

import mlflow
from mlflow.exceptions import MlflowException

from adaptf.names import stored, written
from adaptf.tracking.notes import LONGEST_DESCRIPTION, for_page

PREFIX = "adaptf-"
"""Begin of the names of this package's registered models."""
ROUTER_NAME = f"{PREFIX}router"
BUNDLE_HASH = "adaptf.bundle"
"""Tag of a version: the hash of its bundle.
With `.<hash>` behind it a tag of the run that wrote the bundle."""
CODE_HASH = "adaptf.code"
"""With `.<hash>` behind it a tag of the run that registered versions with this code."""


def device_model_name(device: str) -> str:
    """Registered name of a device's model."""
    if device == "router":
        raise ValueError(f"a device cannot be called 'router': {ROUTER_NAME} is the router's own name")
    return PREFIX + stored(device)


def by_device(models: Iterable[str]) -> dict[str, str]:
    """Device -> registered name of its model, of those among some that are a device's, sorted."""
    return {written(name.removeprefix(PREFIX)): name for name in sorted(models) if name != ROUTER_NAME}


def register(model_uri: str, name: str, *, tags: Mapping[str, str], description: str) -> str:
    """Makes a logged model the next version of a registered one, creating that if need be;
    returns the version."""
    version = str(mlflow.register_model(model_uri, name, tags=dict(tags)).version)
    describe(name, version, description)
    return version


def describe(name: str, version: str, description: str) -> None:
    """What the page of a version shows."""
    shown = for_page(description, longest=LONGEST_DESCRIPTION)
    mlflow.MlflowClient().update_model_version(name, version, description=shown)


def tag(version: str, tags: Mapping[str, str]) -> None:
    """Adds tags to a version, such as `adaptf-a/3`."""
    name, _, number = version.partition("/")
    for key, value in tags.items():
        mlflow.MlflowClient().set_model_version_tag(name, number, key, value)


def tags_of(name: str, version: str) -> Mapping[str, str] | None:
    """A version's tags; None where there is no such version."""
    try:
        return dict(mlflow.MlflowClient().get_model_version(name, version).tags)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
