"""The model registry: names of registered models, and their versions."""

from collections.abc import Mapping

import mlflow
from mlflow.exceptions import MlflowException

from adaptf.tracking.notes import LONGEST_DESCRIPTION, for_page

ROUTER_NAME = "adaptf-router"


def device_model_name(device: str) -> str:
    """Registered name of a device's model."""
    if device == "router":
        raise ValueError(f"a device cannot be called 'router': {ROUTER_NAME} is the router's own name")
    return f"adaptf-{device}"


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
