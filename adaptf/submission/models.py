"""The networks that a submission is made of: those in production, or those of a run of `register`."""

import json
from dataclasses import dataclass
from typing import Any

from torch.export import ExportedProgram

from adaptf.audio.logmel import LogMel
from adaptf.compression.int8 import read_program
from adaptf.data.clips import UNKNOWN
from adaptf.errors import UserError
from adaptf.pipeline.artifacts import QUANTIZE_RUN, VERSIONS
from adaptf.pipeline.int8_models import models_in_production, models_of_version
from adaptf.pipeline.lineage import Node, flat, tree
from adaptf.tracking import registry
from adaptf.tracking.runs import NONE
from adaptf.tracking.stage_run import StageRun


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
    """Of a run of `register`, or for `none` what is in production.

    Raises UserError where a version is missing or was changed, none is for `unknown`, or one hears or tells
    something else than another.
    """
    folder = run.folder / "bundles"
    if register_run == NONE:
        models = models_in_production(folder)
    else:
        router = json.loads(run.download(register_run, VERSIONS).read_text())[registry.ROUTER_NAME]
        models = models_of_version(f"models:/{registry.ROUTER_NAME}/{router}", folder)
    versions = {model.device: model.version for model in models}
    if UNKNOWN not in versions:
        raise UserError(
            f"there are networks for {', '.join(versions)} and none for `unknown`, which answers for devices "
            f"that were not heard in training: promote {registry.device_model_name(UNKNOWN)} too"
        )
    heard = models[0].heard
    return Submitted(
        {model.device: read_program(model.path) for model in models},
        versions,
        list(heard.scenes),
        LogMel(**heard.mel).sample_rate,
        heard.clip_samples,
        dict(heard.mel),
    )


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
