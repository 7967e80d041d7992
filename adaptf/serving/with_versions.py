"""A router's bundle in which other versions answer clips than those that it was registered with, without what
streams and drift need of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptf.audio.logmel import LogMel
from adaptf.errors import UserError
from adaptf.names import UNKNOWN, stored
from adaptf.serving.bundle import BUNDLE, MANIFEST, Bundle, write_bundle
from adaptf.serving.logged_model import download_bundle
from adaptf.serving.taking_up import check_devices, check_same_task
from adaptf.tracking.registry import ROUTER_NAME


def with_versions(bundle: Path, versions: Mapping[str, str], folder: Path) -> Path:
    """The bundle, with a network of each of these versions, by device, such as `adaptf-a/3`; a new one in the
    folder where there are any. Raises UserError that names a version which cannot answer there."""
    if not versions:
        return bundle
    manifest = _manifest(bundle)
    entries = manifest.pop("models")
    models = {device: (bundle / entry["file"], entry["version"]) for device, entry in entries.items()}
    router = _without_networks(**manifest)
    for device, version in versions.items():
        try:
            models[device] = _network(version, router, folder / "of devices" / stored(device)), version
        except UserError as error:
            raise UserError(
                f"{version}, which is in production for device {device!r}, cannot answer: {error}. Promote "
                f"another one, or give the router as it was registered, as in --model_uri "
                f"models:/{ROUTER_NAME}/3"
            ) from error
    write_bundle(folder / BUNDLE, models, **manifest)
    return folder / BUNDLE


def _network(version: str, router: Bundle, folder: Path) -> Path:
    """The file of a version's network, fetched into a folder and held against what was registered."""
    name, _, number = version.partition("/")
    folder.mkdir(parents=True)
    bundle = download_bundle(name, number, folder)
    manifest = _manifest(bundle)
    entries = manifest.pop("models")
    check_devices(entries)
    check_same_task(_without_networks(**manifest), router)
    return bundle / entries[UNKNOWN]["file"]


def _manifest(bundle: Path) -> dict[str, Any]:
    return dict(json.loads((bundle / MANIFEST).read_text(encoding="utf-8")))


def _without_networks(mel: Mapping[str, Any], **values: Any) -> Bundle:
    return Bundle(log_mel=LogMel(**mel), models={}, **values)
