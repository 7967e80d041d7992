"""INT8 models with what they hear: in production, of a registered version, of a run of `quantize`."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adaptf.errors import UserError
from adaptf.names import written
from adaptf.pipeline.artifacts import DESCRIPTION, INT8
from adaptf.serving.bundle import MANIFEST
from adaptf.serving.logged_model import bundle_behind
from adaptf.tracking import production, registry
from adaptf.tracking.present import IN_PRODUCTION, present_version
from adaptf.tracking.stage_run import StageRun


@dataclass(frozen=True)
class Heard:
    """What a network hears and tells apart."""

    mel: Mapping[str, Any]
    """Keyword arguments of LogMel."""
    clip_samples: int
    scenes: tuple[str, ...]


@dataclass(frozen=True)
class Int8Model:
    """A device's."""

    device: str
    version: str
    """Such as `adaptf-a/3`; empty for one that is not registered."""
    path: Path
    """Its .pt2 file."""
    heard: Heard


def models_of_quantize(run: StageRun, quantize_run: str) -> list[Int8Model]:
    """Those of a run of `quantize`."""
    int8 = run.download(quantize_run, INT8)
    description = json.loads((int8 / DESCRIPTION).read_text())
    heard = Heard(description["features"], description["clip_samples"], tuple(description["classes"]))
    return [Int8Model(written(path.stem), "", path, heard) for path in sorted(int8.glob("[!.]*.pt2"))]


def models_of_version(uri: str, folder: Path) -> list[Int8Model]:
    """Those that a URI stands for now, sorted by device and downloaded into a folder: of the router in
    production what is in production, of any other version of a router the models inside it.

    Raises UserError where there are none, or where what is in production does not hear the same.
    """
    return models_in_production(folder) if uri == IN_PRODUCTION else _models_in(present_version(uri), folder)


def models_in_production(folder: Path) -> list[Int8Model]:
    """Those that a live router answers with: the devices' own versions in production, and of other devices
    those inside the router's.

    Raises UserError where nothing is in production, or it does not hear the same.
    """
    promoted = production.device_versions()
    if not promoted or production.production_or_none(registry.ROUTER_NAME):
        router = production.resolve_production(registry.ROUTER_NAME)
        inside = _models_in(f"models:/{registry.ROUTER_NAME}/{router}", folder)
    else:
        inside = []
    found = {model.device: model for model in inside}
    for device, version in promoted.items():
        if device not in found or found[device].version != version:
            (found[device],) = _models_in(f"models:/{version}", folder)
    models = [found[device] for device in sorted(found)]
    _check_alike([*inside, *models])
    return models


def _check_alike(models: list[Int8Model]) -> None:
    wanted = asdict(models[0].heard)
    for model in models:
        heard = asdict(model.heard)
        if different := [name for name, value in heard.items() if value != wanted[name]]:
            raise UserError(
                f"{model.version} and what else is in production differ in {', '.join(different)}: promote "
                "versions that belong together, or name the run of `register` or the version that you mean"
            )


def _models_in(uri: str, folder: Path) -> list[Int8Model]:
    """A version of a device's model says of its only network that it is for `unknown`."""
    place = folder / uri.removeprefix("models:/").replace("/", "_")
    place.mkdir(parents=True, exist_ok=True)
    bundle = bundle_behind(uri, place, what=uri)
    manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    heard = Heard(manifest["mel"], manifest["clip_samples"], tuple(manifest["scenes"]))
    models = [
        Int8Model(device, entry["version"], bundle / entry["file"], heard)
        for device, entry in sorted(manifest["models"].items())
    ]
    version = re.fullmatch(r"models:/([^/]+)/(\d+)", uri)
    for device, name in registry.by_device(version.groups()[:1] if version else ()).items():
        own = f"{name}/{uri.rpartition('/')[2]}"
        models = [replace(model, device=device, version=own) for model in models]
    return models
