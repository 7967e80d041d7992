"""The runs that a stage takes from:
`latest`, ids and checkpoint files in the fields of its settings, made definite."""

import dataclasses
from typing import Any, TypeVar

from adaptf.pipeline.config import upstream_fields
from adaptf.pipeline.given_files import given_files
from adaptf.pipeline.seeds import SEEDS_SUFFIX
from adaptf.tracking import runs
from adaptf.tracking.runs import LATEST, NONE, UpstreamError

_Config = TypeVar("_Config")


def resolve_upstream(config: _Config) -> _Config:
    """Replaces `latest` in the fields that name other stages' runs by run ids,
    and checks given ids and files."""
    changes = {field.name: _resolved(config, field) for field in upstream_fields(config)}
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _resolved(config: Any, field: dataclasses.Field[Any]) -> str:
    """The value of a field as run ids, as checkpoint files from the root on, or `none`."""
    value, stage = str(getattr(config, field.name)), field.metadata["stage"]
    if value == LATEST:
        return _newest_or_way_out(field)
    if value == NONE and field.metadata.get("optional"):
        return NONE
    if files := given_files(field.name, value, stage=stage, takes=field.metadata.get("files", "none")):
        return files
    several = "several" in field.metadata
    also_seeds = several or bool(getattr(config, "seeds", None))
    stages = [stage, stage + SEEDS_SUFFIX] if also_seeds else [stage]
    run_ids = value.split(",") if several or "each" in field.metadata else [value]
    found = [runs.finished_run(run_id, *stages) for run_id in run_ids]
    return ",".join(run_id for run in found for run_id in runs.with_all_seeds(run)) if several else value


def _newest_or_way_out(field: dataclasses.Field[Any]) -> str:
    """What `latest` means. Raises UpstreamError, which says so where the stage can do without."""
    try:
        return _newest(field)
    except UpstreamError as error:
        if not field.metadata.get("optional"):
            raise
        raise UpstreamError(f"{error}, or do without: {field.name}={NONE}") from error


def _newest(field: dataclasses.Field[Any]) -> str:
    """What `latest` means."""
    stage = field.metadata["stage"]
    if "each" in field.metadata:
        return ",".join(runs.latest_of_each(stage, field.metadata["each"]))
    if "several" in field.metadata and not runs.any_finished(stage):
        print(f"{field.name}: no run of '{stage}' has finished, it is left out", flush=True)
        return NONE
    return runs.latest(stage, field.metadata["tags"])
