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


@dataclass(frozen=True)
class RegisterConfig:
    """Registers INT8 models and their router."""

    quantize_run: str = upstream("quantize")
    """Run of `quantize` that holds the INT8 models."""
    max_seconds: float = 60.0
    """Longest audio of one row of a request, in seconds."""


def register(config: RegisterConfig, run: StageRun) -> Result:
    """Each device's model alone, answering for every device, then the router with all of them and their versions."""
    int8 = run.download(config.quantize_run, INT8)
    report = pd.read_csv(run.download(config.quantize_run, REPORT), index_col="device")
    description = json.loads((int8 / DESCRIPTION).read_text())
    versions: dict[str, str] = {}
    models: dict[str, tuple[Path, str]] = {}
    for path in sorted(int8.glob("*.pt2")):
        device = path.stem
        name = registry.device_model_name(device)
        uri = registry.log_router(bundle(run.folder / name, description, {UNKNOWN: (path, name)}, config.max_seconds), name)
        versions[name] = registry.register(
            uri,
            name,
            tags={"adaptf.device": device, "adaptf.quantize_run": config.quantize_run} | scores_of(report, device),
            description=f"INT8 model of device {device}.\n\n{as_markdown(report.loc[[device]].T)}",
        )
        models[device] = (path, f"{name}/{versions[name]}")
        print(f"{run.name}: {name} version {versions[name]}", flush=True)
    router = registry.ROUTER_NAME
    uri = registry.log_router(bundle(run.folder / router, description, models, config.max_seconds), router)
    held = "\n".join(f"- {device}: {version}" for device, (_, version) in models.items())
    versions[router] = registry.register(
        uri,
        router,
        tags={"adaptf.quantize_run": config.quantize_run},
        description=f"Sends each clip to the model of its recording device.\n\n{held}",
    )
    print(f"{run.name}: {router} version {versions[router]}", flush=True)
    path = run.folder / VERSIONS
    path.write_text(json.dumps(versions, indent=1))
    lines = "\n".join(f"| {name} | {version} |" for name, version in versions.items())
    return Result(files={VERSIONS: path}, note=f"| model | version |\n|---|---:|\n{lines}")


def bundle(folder: Path, description: dict[str, Any], models: dict[str, tuple[Path, str]], max_seconds: float) -> Path:
    """The router's folder for these devices: INT8 file and version of each."""
    shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted run
    registry.write_bundle(
        folder,
        models,
        scenes=description["classes"],
        mel=description["features"],
        sample_rate=description["features"]["sample_rate"],
        clip_samples=description["clip_samples"],
        max_seconds=max_seconds,
    )
    return folder


def scores_of(report: pd.DataFrame, device: str) -> dict[str, str]:
    """The quantization's figures of a device as tags, which promotion checks."""
    return {f"adaptf.{str(name).replace(' ', '_')}": str(report.loc[device, name]) for name in report.columns}


if __name__ == "__main__":
    run_stage(register, RegisterConfig)
