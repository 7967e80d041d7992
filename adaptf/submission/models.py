"""The networks that a submission is made of: those in production, or those of a run of `register`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from adaptf.compression.int8 import read_program
from adaptf.data.clips import UNKNOWN
from adaptf.errors import UserError
from adaptf.pipeline.artifacts import QUANTIZE_RUN, VERSIONS
from adaptf.pipeline.lineage import Node, flat, tree
from adaptf.serving.bundle import MANIFEST
from adaptf.serving.logged_model import download_bundle
from adaptf.tracking import production, registry
from adaptf.tracking.runs import NONE, StageRun


@dataclass(frozen=True)
class Submitted:
    """Registered networks, and what they hear."""

    programs: dict[str, ExportedProgram]
    """By device; `unknown` is always there."""
    versions: dict[str, str]
    """By device, such as `adaptf-a/3`."""
    scenes: list[str]
    sample_rate: int
    clip_samples: int
    log_mel: dict[str, Any]
    """Keyword arguments of LogMel."""

    def device_used(self, device: str) -> str:
        """Whose network answers."""
        return device if device in self.programs else UNKNOWN


def submitted(run: StageRun, register_run: str) -> Submitted:
    """Of a run of `register`, or for `none` what is in production: the router, and each device's own version
    in the place of the router's, as a live router has them.

    Raises UserError where a version is missing, was changed, or hears or tells something else than the
    router.
    """
    promoted: dict[str, str] = {}
    if register_run == NONE:
        promoted = production.device_versions()
        router = production.resolve_production(registry.ROUTER_NAME)
    else:
        router = json.loads(run.download(register_run, VERSIONS).read_text())[registry.ROUTER_NAME]
    manifest, files = _bundle(run, registry.ROUTER_NAME, router)
    names = {device: entry["version"] for device, entry in manifest["models"].items()}
    for device, version in promoted.items():
        if names.get(device) == version:
            continue
        name, _, number = version.partition("/")
        own, held = _bundle(run, name, number)
        if different := [key for key in ("scenes", "clip_samples", "mel") if own[key] != manifest[key]]:
            raise UserError(
                f"{name} version {number} and the router differ in {', '.join(different)}: promote "
                "versions that belong together, or name a register_run"
            )
        files[device], names[device] = held[UNKNOWN], version
    return Submitted(
        {device: read_program(file) for device, file in sorted(files.items())},
        names,
        manifest["scenes"],
        manifest["sample_rate"],
        manifest["clip_samples"],
        manifest["mel"],
    )


def _bundle(run: StageRun, name: str, version: str) -> tuple[dict[str, Any], dict[str, Path]]:
    """Its manifest, and the .pt2 file of each device."""
    folder = run.folder / "bundles" / name
    folder.mkdir(parents=True, exist_ok=True)
    bundle = download_bundle(name, version, folder)
    manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    return manifest, {device: bundle / entry["file"] for device, entry in manifest["models"].items()}


def came_from(models: Submitted) -> list[Node]:
    """The runs and files behind all networks, each once.
    Raises UserError for a version that does not say where it came from."""
    found: dict[str, Node] = {}
    for device, version in models.versions.items():
        tags = registry.tags_of(*version.split("/")) or {}
        if QUANTIZE_RUN not in tags:
            raise UserError(
                f"{version} does not say which run of `quantize` made it, so nobody knows what it learnt"
            )
        found |= {node.run_id: node for node in flat(tree(tags[QUANTIZE_RUN], device))}
    return list(found.values())
