"""Stage `promote`: puts versions into production once they have passed the gates."""

import json
from dataclasses import dataclass

import mlflow
from mlflow.exceptions import MlflowException

from adaptf.compression.complexity import MAX_BYTES, MAX_MACS
from adaptf.errors import UserError
from adaptf.mlproject.config import upstream
from adaptf.mlproject.register import VERSIONS
from adaptf.mlproject.stage import run_stage
from adaptf.tracking import registry
from adaptf.tracking.runs import Result, StageRun

PROMOTED = "adaptf.promoted."
"""Begin of a tag per promoted model, whose value is the version."""


@dataclass(frozen=True)
class PromoteConfig:
    """Promotes one device's model, or all versions of a `register` run."""

    device: str = "all"
    """A device, `router`, or `all`: every model of the `register` run and the router."""
    version: str = "registered"
    """Version number; `registered`: the one that the `register` run made."""
    register_run: str = upstream("register")
    """Run of `register`."""
    tolerable_loss: float = 0.01
    """Gate: highest relative loss of accuracy by quantization."""


def promote(config: PromoteConfig, run: StageRun) -> Result:
    """Checks all versions before it promotes any."""
    wanted = versions_to_promote(config, run)
    problems = [problem for name, version in wanted.items() for problem in gate(name, version, config.tolerable_loss)]
    if problems:
        raise UserError("nothing was promoted:\n  " + "\n  ".join(problems))
    for name, version in wanted.items():
        registry.promote(name, version)
        print(f"{run.name}: {name} version {version} is in production", flush=True)
    lines = "\n".join(f"| {name} | {version} |" for name, version in wanted.items())
    return Result(
        tags={f"{PROMOTED}{name}": version for name, version in wanted.items()},
        note=f"In production:\n\n| model | version |\n|---|---:|\n{lines}",
    )


def versions_to_promote(config: PromoteConfig, run: StageRun) -> dict[str, str]:
    """Registered model -> version."""
    registered: dict[str, str] = json.loads(run.download(config.register_run, VERSIONS).read_text())
    if config.device == "all":
        if config.version != "registered":
            raise UserError(f"version {config.version} needs a device: give -P device=<device> or device=router too")
        return registered
    name = registry.ROUTER_NAME if config.device == "router" else registry.device_model_name(config.device)
    if config.version != "registered":
        return {name: config.version}
    if name not in registered:
        raise UserError(f"register run {config.register_run} has no model {name}; it has {', '.join(registered)}")
    return {name: registered[name]}


def gate(name: str, version: str, tolerable_loss: float) -> list[str]:
    """Why a version may not go into production; empty where it may. The router is as good as the models in it."""
    try:
        tags = mlflow.MlflowClient().get_model_version(name, version).tags
    except MlflowException:
        return [f"{name} has no version {version}"]
    if name == registry.ROUTER_NAME:
        return []
    limits = {
        "adaptf.relative_loss": (100 * tolerable_loss, "percent relative loss by quantization"),
        "adaptf.macs": (MAX_MACS, "MACs"),
        "adaptf.model_bytes": (MAX_BYTES, "bytes"),
    }
    problems = []
    for tag, (limit, what) in limits.items():
        if tag not in tags:
            problems.append(f"{name} version {version} has no tag {tag}: it was not registered by `register`")
        elif float(tags[tag]) > limit:
            problems.append(f"{name} version {version}: {float(tags[tag]):,.10g} {what}, at most {limit:,.10g} are allowed")
    return problems


if __name__ == "__main__":
    run_stage(promote, PromoteConfig)
