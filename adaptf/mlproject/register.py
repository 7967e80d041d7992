"""Stage `register`: a version of a registered model for each device, and of the router that holds them all."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from adaptf.data.clips import UNKNOWN
from adaptf.evaluation.tables import as_markdown
from adaptf.mlproject.config import upstream
from adaptf.mlproject.quantize import DESCRIPTION, INT8, REPORT
from adaptf.mlproject.stage import run_stage
from adaptf.tracking import registry
from adaptf.tracking.runs import Result, StageRun

VERSIONS = "versions.json"
"""Artifact: registered model -> version."""
ROUTER_MANIFEST = "router.json"


@dataclass(frozen=True)
class RegisterConfig:
    """Registers INT8 models and their router."""

    quantize_run: str = upstream("quantize")
    """Run of `quantize` that holds the INT8 models."""
    max_seconds: float = 60.0
    """Longest audio of one request, in seconds."""


def register(config: RegisterConfig, run: StageRun) -> Result:
    """Each device's model alone, answering for every device, then the router with all of them and their versions."""
    int8 = run.download(config.quantize_run, INT8)
    report = pd.read_csv(run.download(config.quantize_run, REPORT), index_col="device")
    description = json.loads((int8 / DESCRIPTION).read_text())
    versions: dict[str, str] = {}
    entries: dict[str, dict[str, str]] = {}
    for path in sorted(int8.glob("*.pt2")):
        device = path.stem
        name = registry.device_model_name(device)
        single = make_bundle(run.folder / name, description, {UNKNOWN: (path, name)}, config.max_seconds)
        uri = registry.log_router(single, name)
        versions[name] = registry.register(
            uri,
            name,
            tags={"adaptf.device": device, "adaptf.quantize_run": config.quantize_run} | scores_of(report.loc[device]),
            description=f"INT8 model of device {device}.\n\n{as_markdown(report.loc[[device]].T)}",
        )
        entries[device] = {"file": path.name, "version": f"{name}/{versions[name]}"}
        print(f"{run.name}: {name} version {versions[name]}", flush=True)
    files = {device: (int8 / entry["file"], entry["version"]) for device, entry in entries.items()}
    bundle = make_bundle(run.folder / registry.ROUTER_NAME, description, files, config.max_seconds)
    versions[registry.ROUTER_NAME] = registry.register(
        registry.log_router(bundle, registry.ROUTER_NAME),
        registry.ROUTER_NAME,
        tags={"adaptf.quantize_run": config.quantize_run},
        description="Sends each clip to the model of its recording device.\n\n"
        + "\n".join(f"- {device}: {entry['version']}" for device, entry in entries.items()),
    )
    print(f"{run.name}: {registry.ROUTER_NAME} version {versions[registry.ROUTER_NAME]}", flush=True)
    path = run.folder / VERSIONS
    path.write_text(json.dumps(versions, indent=1))
    lines = "\n".join(f"| {name} | {version} |" for name, version in versions.items())
    return Result(files={VERSIONS: path}, note=f"| model | version |\n|---|---:|\n{lines}")


def make_bundle(
    folder: Path, description: dict[str, Any], models: dict[str, tuple[Path, str]], max_seconds: float
) -> Path:
    """A folder with the networks' files and the manifest that the router reads."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, _ in models.values():
        shutil.copyfile(path, folder / path.name)
    manifest = {
        "scenes": description["classes"],
        "sample_rate": description["features"]["sample_rate"],
        "clip_samples": description["clip_samples"],
        "max_seconds": max_seconds,
        "mel": description["features"],
        "models": {device: {"file": path.name, "version": version} for device, (path, version) in models.items()},
    }
    (folder / ROUTER_MANIFEST).write_text(json.dumps(manifest, indent=1))
    return folder


def scores_of(row: pd.Series) -> dict[str, str]:
    """The quantization's figures as tags, which promotion checks."""
    return {f"adaptf.{name.replace(' ', '_')}": str(value) for name, value in row.items()}


if __name__ == "__main__":
    run_stage(register, RegisterConfig)
