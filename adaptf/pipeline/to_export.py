"""The INT8 models of registered versions, or of a run of `quantize`, with what they hear."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptf.errors import UserError
from adaptf.names import written
from adaptf.pipeline.artifacts import DESCRIPTION, INT8
from adaptf.serving.bundle import MANIFEST
from adaptf.serving.logged_model import bundle_behind
from adaptf.tracking import production, registry
from adaptf.tracking.present import IN_PRODUCTION, present_version
from adaptf.tracking.runs import StageRun


@dataclass(frozen=True)
class Heard:
    """What a network hears and tells apart."""

    mel: Mapping[str, Any]
    """Keyword arguments of LogMel."""
    clip_samples: int
    scenes: tuple[str, ...]


@dataclass(frozen=True)
class ToExport:
    """A device's INT8 model."""

    device: str
    version: str
    """Such as `adaptf-a/3`; empty for one that is not registered."""
    path: Path
    """Its .pt2 file."""
    heard: Heard


def models_of_quantize(run: StageRun, quantize_run: str) -> list[ToExport]:
    """Those of a run of `quantize`."""
    int8 = run.download(quantize_run, INT8)
    description = json.loads((int8 / DESCRIPTION).read_text())
    heard = Heard(description["features"], description["clip_samples"], tuple(description["classes"]))
    return [ToExport(written(path.stem), "", path, heard) for path in sorted(int8.glob("[!.]*.pt2"))]


def models_of_versions(uri: str, folder: Path) -> list[ToExport]:
    """Those that a URI stands for now, downloaded into a folder: of the router in production the devices'
    versions that are in production, of any other version of a router those inside it.

    Raises UserError where there are none, or they do not hear the same.
    """
    promoted = production.device_versions() if uri == IN_PRODUCTION else {}
    uris = [f"models:/{version}" for version in promoted.values()]
    found = [
        model
        for place, one in enumerate(uris or [present_version(uri)])
        for model in _models_in(one, folder / str(place))
    ]
    for model in found:
        if model.heard != found[0].heard:
            raise UserError(
                f"{model.version} and {found[0].version} hear or tell apart different things ({model.heard}; "
                f"{found[0].heard}): export them one by one, as in model_uri=models:/{model.version}"
            )
    return found


def _models_in(uri: str, folder: Path) -> Iterator[ToExport]:
    """A version of a device's model says of its only network that it is for `unknown`."""
    folder.mkdir(parents=True)
    bundle = bundle_behind(uri, folder, what=uri)
    manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    heard = Heard(manifest["mel"], manifest["clip_samples"], tuple(manifest["scenes"]))
    version = re.fullmatch(r"models:/([^/]+)/(\d+)", uri)
    alone = registry.by_device([version[1]]) if version else {}
    for device, entry in manifest["models"].items():
        model = ToExport(device, entry["version"], bundle / entry["file"], heard)
        for own_device, name in alone.items():
            model = replace(model, device=own_device, version=f"{name}/{version[2]}" if version else "")
        yield model
