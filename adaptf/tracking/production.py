"""Which version of a registered model is in production:
promoting, rolling back, and what the readers believe."""

import json
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import mlflow
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList

from adaptf.errors import UserError
from adaptf.tracking.registry import BUNDLE_HASH, PREFIX, by_device

_Found = TypeVar("_Found")

ALIAS = "production"
_PRODUCTION, _ARCHIVED = "Production", "Archived"
_STAGE_TAG = "stage"
HISTORY = "adaptf.history"
"""Tag of a registered model: JSON list of the versions that were in production, the newest last."""
LONGEST_HISTORY = 100


class Promoted(NamedTuple):
    """What is in production of a registered model."""

    version: str
    sha256: str
    """Of its bundle; empty where it was registered by a version of adaptf that kept none."""


class NoProductionVersion(UserError):
    """No version of the model was promoted."""


def promote(name: str, version: str) -> None:
    """Puts a version in production: alias, tag and, where the server still has them, stage;
    archives the former one.

    A promotion that breaks off has been for readers or has not, and can be repeated. What somebody put in
    production by hand in the meantime goes into the history too.
    Raises UserError where there is no such version.
    """
    versions = versions_by_number(name)
    if version not in versions:
        raise UserError(f"{name} has no version {version!r}; there are {sorted(versions, key=int)}")
    history = _history_of(name)
    # Twice: before, or what was put there by hand would be lost; after, or a promotion that broke off would
    # be in it.
    write_history(name, history)
    _put_in_production(name, version, versions)
    write_history(name, _with_newest(history, version))


def roll_back(name: str, to: str | None = None) -> str:
    """Returns to the version that was in production before this one, and gives its number. Versions that were
    deleted since are passed over.
    Raises UserError where there is none, or where it is not the one that is expected (`to`)."""
    version = previous_version(name)
    if to is not None and version != to:
        raise UserError(
            f"{name} goes back to version {version} by now, no longer to version {to}: "
            "somebody changed what is in production in the meantime; start again"
        )
    history = _history_of(name)
    while history[-1] != version:
        history.pop()
    # The history first: where it ends there, a rollback that broke off can be repeated, and still goes to
    # this version.
    write_history(name, history)
    _put_in_production(name, version, versions_by_number(name))
    return version


def previous_version(name: str) -> str:
    """The version that a rollback goes to. Raises UserError where there is none."""
    version = previous_or_none(name)
    if version is None:
        now = production_or_none(name)
        raise UserError(
            f"{name} has no version to go back to: "
            + (
                f"version {now} is in production, and none that is still there was before it"
                if now
                else "none was in production"
            )
        )
    return version


def previous_or_none(name: str) -> str | None:
    """The newest version of the history that is there and not in production now."""
    versions, now = versions_by_number(name), production_or_none(name)
    there = [version for version in _history_of(name) if version in versions]
    while there and there[-1] == now:
        there.pop()
    return there[-1] if there else None


def _put_in_production(name: str, version: str, versions: dict[str, ModelVersion]) -> None:
    """The alias is what `resolve_production` believes first: it is the moment that counts. Stage and tag
    follow it, and where they were left behind, the next promotion sets them right."""
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(name, ALIAS, version)
    move_to_production_stage(client, name, version)
    for number, found in versions.items():
        if number != version and _PRODUCTION in (found.current_stage, found.tags.get(_STAGE_TAG)):
            client.set_model_version_tag(name, number, _STAGE_TAG, _ARCHIVED)
    client.set_model_version_tag(name, version, _STAGE_TAG, _PRODUCTION)


def move_to_production_stage(client: mlflow.MlflowClient, name: str, version: str) -> None:
    """Stages are deprecated since MLflow 2.9 and may be gone, from the client or from the server."""
    transition = getattr(client, "transition_model_version_stage", None)
    if transition is None:
        return
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r".*transition_model_version_stage.* is deprecated", category=FutureWarning
        )
        try:
            transition(name, version, _PRODUCTION, archive_existing_versions=True)
        except MlflowException as error:
            if error.error_code not in ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"):
                raise


def _history_of(name: str) -> list[str]:
    """Versions that were in production, the newest last:
    what is there now, also where it was put there by hand.

    Raises UserError where the tag was edited into something else.
    """
    model = _registered_model(name)
    text = model.tags.get(HISTORY, "[]") if model else "[]"
    try:
        history = [str(int(version)) for version in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise UserError(
            f'the tag {HISTORY} of {name} is {text!r}: it should be a list of versions such as ["1", "2"]; '
            "correct it or delete it"
        ) from error
    now = _version_in_production(model) if model else None
    return _with_newest(history, now) if now else history


def _with_newest(history: Sequence[str], version: str) -> list[str]:
    """The history once a version is in production; nothing changes where it was already."""
    return list(history) if list(history[-1:]) == [version] else [*history, version]


def write_history(name: str, history: Sequence[str]) -> None:
    """Keeps the newest part of it."""
    mlflow.MlflowClient().set_registered_model_tag(
        name, HISTORY, json.dumps(list(history[-LONGEST_HISTORY:]))
    )


def resolve_production(name: str) -> str:
    """The version in production: the one with the alias, else the newest in the stage.
    Raises NoProductionVersion."""
    version = production_or_none(name)
    if version is None:
        there = ", ".join(str(found.version) for found in versions_of(name))
        todo = "promote one" if there else "first register some (-e register), then promote them"
        raise NoProductionVersion(
            f"no version of {name!r} is in production: in {mlflow.get_registry_uri()} none has the alias "
            f"'{ALIAS}' (versions: {there or 'none'}); {todo} (mlflow run . -e promote --env-manager local)"
        )
    return version


def production_or_none(name: str) -> str | None:
    """The version in production; None where there is none, or no such model."""
    model = _registered_model(name)
    return _version_in_production(model) if model else None


def in_production() -> dict[str, str]:
    """Registered model -> version, of all models of this package that have one in production.
    One request serves a hundred."""
    found = {model.name: _version_in_production(model) for model in models()}
    return {name: version for name, version in found.items() if version}


def device_versions() -> dict[str, str]:
    """Device -> version of its model that is in production, such as `adaptf-a/3`."""
    versions = in_production()
    return {device: f"{name}/{versions[name]}" for device, name in by_device(versions).items()}


def promoted() -> dict[str, Promoted]:
    """The same with what tells a version from another one of its number."""
    found = [(model, _version_in_production(model)) for model in models()]
    return {model.name: with_hash(model, version) for model, version in found if version}


def with_hash(model: RegisteredModel, version: str) -> Promoted:
    """A version of a model, with the hash of its bundle. One more request where it has an alias alone."""
    newest = {str(one.version): one for one in model.latest_versions}
    tags = (newest.get(version) or mlflow.MlflowClient().get_model_version(model.name, version)).tags
    return Promoted(version, tags.get(BUNDLE_HASH, ""))


def models() -> list[RegisteredModel]:
    """All registered models of this package."""
    return _all_pages(mlflow.MlflowClient().search_registered_models, f"name LIKE '{PREFIX}%'")


def _version_in_production(model: RegisteredModel) -> str | None:
    """By its alias, else the newest in the stage; None where there is none."""
    if ALIAS in model.aliases:
        return str(model.aliases[ALIAS])
    staged = [
        int(version.version) for version in model.latest_versions if version.current_stage == _PRODUCTION
    ]
    return str(max(staged)) if staged else None


def _registered_model(name: str) -> RegisteredModel | None:
    """A registered model with its aliases, tags and the newest version of each stage;
    None where there is none."""
    try:
        return mlflow.MlflowClient().get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def versions_by_number(name: str) -> dict[str, ModelVersion]:
    """All versions of a registered model; none where the model does not exist."""
    return {str(found.version): found for found in versions_of(name)}


def versions_of(name: str) -> list[ModelVersion]:
    """All versions of a registered model, newest first; none where the model does not exist."""
    quoted = name.replace("'", "''")
    return _all_pages(mlflow.MlflowClient().search_model_versions, f"name='{quoted}'")


def versions_made_by(run_id: str) -> dict[str, str]:
    """Registered model -> version, of all that a run has registered; of several of one model the newest."""
    found = _all_pages(mlflow.MlflowClient().search_model_versions, f"run_id='{run_id}'")
    return {one.name: str(one.version) for one in sorted(found, key=lambda one: int(one.version))}


def _all_pages(search: Callable[..., PagedList[_Found]], condition: str) -> list[_Found]:
    """All that a search of MLflow's client finds."""
    page = search(condition)
    found = list(page)
    while page.token:
        page = search(condition, page_token=page.token)
        found += page
    return found
