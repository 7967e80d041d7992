"""The model registry: names of registered models, and their versions."""

from collections.abc import Iterable, Mapping

import mlflow
from mlflow.exceptions import MlflowException

from adaptf.names import stored, written
from adaptf.tracking.notes import LONGEST_DESCRIPTION, for_page

PREFIX = "adaptf-"
"""Begin of the names of this package's registered models."""
ROUTER_NAME = f"{PREFIX}router"


def device_model_name(device: str) -> str:
    """Registered name of a device's model."""
    if device == "router":
        raise ValueError(f"a device cannot be called 'router': {ROUTER_NAME} is the router's own name")
    return PREFIX + stored(device)


def by_device(models: Iterable[str]) -> dict[str, str]:
    """Device -> registered name of its model, of those among some that are a device's, sorted."""
    return {written(name.removeprefix(PREFIX)): name for name in sorted(models) if name != ROUTER_NAME}


def register(model_uri: str, name: str, *, tags: Mapping[str, str], description: str) -> str:
    """Makes a logged model the next version of a registered one, creating that if need be; returns the version."""
    version = mlflow.register_model(model_uri, name, tags=dict(tags))
    shown = for_page(description, longest=LONGEST_DESCRIPTION)
    mlflow.MlflowClient().update_model_version(name, version.version, description=shown)
    return str(version.version)


def tags_of(name: str, version: str) -> Mapping[str, str] | None:
    """A version's tags; None where there is no such version."""
    try:
        return dict(mlflow.MlflowClient().get_model_version(name, version).tags)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
