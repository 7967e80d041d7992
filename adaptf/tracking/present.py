"""Which version the URI of a model stands for now."""

import re

import mlflow
from mlflow.exceptions import MlflowException

from adaptf.errors import UserError
from adaptf.tracking import production, registry

IN_PRODUCTION = f"models:/{registry.ROUTER_NAME}@{production.ALIAS}"


def present_version(model: str) -> str:
    """The URI of the version that a URI stands for now.

    `models:/NAME@production` is read as everywhere: by the alias, else by the stage.
    Raises UserError where there is none.
    """
    name, at, alias = model.removeprefix("models:/").partition("@")
    if not model.startswith("models:/") or re.fullmatch(r"[^/]+/\d+|m-\w+", name + at):
        return model  # a folder, a model of a run, a version: these stay what they are
    if not at:
        raise UserError(
            f"{model} should end with a version, as in {model.rpartition('/')[0] or model}/3, or with an "
            "alias"
        )
    if alias == production.ALIAS:
        return f"models:/{name}/{production.resolve_production(name)}"
    try:
        return f"models:/{name}/{mlflow.MlflowClient().get_model_version_by_alias(name, alias).version}"
    except MlflowException as error:
        raise no_model(model, error) from error


def no_model(uri: str, error: MlflowException) -> UserError:
    return UserError(f"there is no model {uri} in {mlflow.get_registry_uri()} ({error.message})")
