"""Serves the router over HTTP until it is stopped. It makes no run of its own."""

import logging
import os
import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from jsonargparse import auto_cli, set_parsing_settings

from adaptf.errors import UserError, without_passwords
from adaptf.files import writable_folder
from adaptf.paths import user_file_or_name, user_path
from adaptf.serving.app import serve
from adaptf.serving.bundle import BundleError, read_bundle
from adaptf.serving.candidates import Candidates
from adaptf.serving.drift import Drift
from adaptf.serving.drift_metrics import DriftMetrics
from adaptf.serving.kept import KeptVersions
from adaptf.serving.live import Follower
from adaptf.serving.log_lines import log, show_log
from adaptf.serving.logged_model import Refused, bundle_behind
from adaptf.serving.router import DeviceRouter
from adaptf.serving.settings import Settings, read_settings
from adaptf.serving.shadow import Shadow
from adaptf.serving.shadow_status import ShadowMetrics
from adaptf.serving.webhook import read_secret
from adaptf.tracking import production
from adaptf.tracking.present import IN_PRODUCTION, present_version
from adaptf.tracking.production import NoProductionVersion
from adaptf.tracking.refusals import refusal
from adaptf.tracking.server import through_the_server

_NOWHERE = "none"
_REGISTERED = re.compile(r"models:/([^/]+)/(\d+)")
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
"""MLflow's client would wait four minutes for a registry that is away, and the router answers without it."""


@dataclass(frozen=True)
class ServeConfig:
    """Serves a router: /invocations, /health, /ready, /version, /shadow and /metrics."""

    model_uri: str = IN_PRODUCTION
    """The router: models:/adaptf-router@production, models:/adaptf-router/3, or the model of one device."""
    host: str = "127.0.0.1"
    """Where it listens; 0.0.0.0 in a container."""
    port: int = 5001
    """Of all routes."""
    live: bool = True
    """Whether what is promoted in the registry is taken up while the router serves."""
    check_seconds: float = Settings.check_seconds
    """Time between two looks at the registry."""
    device_from_sound: bool = Settings.device_from_sound
    """Whether the sound says which device recorded a row that names none."""
    keep: str = _NOWHERE
    """Folder for copies of what serves, from which it starts while the registry is away."""
    drift: bool = True
    """Whether what it hears is held against the validation clips of the versions that answer."""
    shadow_share: float = 0.1
    """Share of the clips, from 0 to 1, that versions with the alias `shadow` answer too, unseen."""
    shadow_core_share: float = 0.1
    """Share of one processor core, above 0 and up to 1, that this may take."""


def load_router(config: ServeConfig) -> DeviceRouter:
    """A router that has started. Raises UserError where there is none, in the registry or kept."""
    _check_shares(config)
    settings = read_settings({field.name: getattr(config, field.name) for field in fields(Settings)})
    kept = None
    if config.keep != _NOWHERE:
        kept = KeptVersions(writable_folder(Path(user_path(config.keep, what="keep")), what="keep"))
    asked = user_file_or_name(config.model_uri, what="model_uri")
    with TemporaryDirectory(prefix="adaptf-", ignore_cleanup_errors=True) as folder:
        try:
            uri = present_version(asked)
            files = bundle_behind(uri, Path(folder), what=uri)
            follower = _follower(uri, files, settings, kept)
            if kept and (registered := _REGISTERED.fullmatch(uri)):
                kept.keep(registered[1], registered[2], files)
        except (NoProductionVersion, Refused):
            raise
        except Exception as error:  # whatever keeps the registry or its files from answering
            follower = _kept_follower(asked, settings, kept, error)
    router = DeviceRouter()
    router.start(follower, settings)
    if config.drift:
        drift = Drift(follower)
        router.tell(drift.heard, DriftMetrics(drift))
    if config.live and config.shadow_share:
        candidates = Candidates(follower)
        shadow = Shadow(follower, candidates, share=config.shadow_share, core_share=config.shadow_core_share)
        router.begin_shadow(shadow, ShadowMetrics(shadow))
    return router


def _check_shares(config: ServeConfig) -> None:
    """Raises UserError for a share that is none."""
    if not 0 <= config.shadow_share <= 1:
        raise UserError(f"shadow_share is {config.shadow_share:g}: it should be from 0 to 1")
    if not 0 < config.shadow_core_share <= 1:
        raise UserError(
            f"shadow_core_share is {config.shadow_core_share:g}: it should be above 0, up to 1; "
            "shadow_share=0 lets no candidate answer"
        )


def _follower(uri: str, files: Path, settings: Settings, kept: KeptVersions | None) -> Follower:
    router = uri.removeprefix("models:/")
    return Follower(read_bundle(files), check_seconds=settings.check_seconds, router=router, kept=kept)


def _kept_follower(asked: str, settings: Settings, kept: KeptVersions | None, error: Exception) -> Follower:
    """The same from the copy on disk. Raises UserError where there is none of what was asked for."""
    name, _, wanted = re.sub("^models:/", "", asked).replace("@", "/").partition("/")
    found = kept.versions().get(name) if kept else None
    if kept is None or found is None or wanted not in (production.ALIAS, found.version):
        nothing = "nothing is kept of it" if kept else "keep=FOLDER would have kept it for such a start"
        raise UserError(
            f"{asked} cannot be loaded from {mlflow.get_registry_uri()}, and {nothing}: "
            f"{refusal(error) or error}"
        ) from error
    version = f"{name}/{found.version}"
    try:
        follower = _follower(f"models:/{version}", kept.bundle(name), settings, kept)
    except (BundleError, KeyError, OSError) as damaged:
        raise UserError(
            f"{asked} cannot be loaded ({error}), and its copy can't either: {damaged}"
        ) from error
    follower.from_kept[name] = found
    log(
        "kept",
        logging.WARNING,
        version=version,
        message=without_passwords(f"starts from its copy on disk: {error}"),
    )
    return follower


def main() -> None:
    """The body of the entry point."""
    for name, value in _IMPATIENT.items():
        os.environ.setdefault(name, value)
    through_the_server()
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    config = auto_cli(ServeConfig, as_positional=False)
    show_log()
    try:
        secret = read_secret() if config.live else ""
        serve(load_router(config), host=config.host, port=config.port, webhook_secret=secret)
    except UserError as error:
        sys.exit(f"\nserve: {error}")


if __name__ == "__main__":
    main()
