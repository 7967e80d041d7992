"""The runs that a stage takes from:
`latest`, ids and checkpoint files in the fields of its settings, made definite."""

import dataclasses
from typing import Any, TypeVar

from adaptf.pipeline.config import upstream_fields
from adaptf.pipeline.given_files import given_files
from adaptf.pipeline.several import folds_of
from adaptf.tracking import runs
from adaptf.tracking.runs import LATEST, NONE, UpstreamError
from adaptf.tracking.several import FOLDS, SEEDS, with_all_seeds

_Config = TypeVar("_Config")


def resolve_upstream(config: _Config) -> _Config:
    """Replaces `latest` in the fields that name other stages' runs by run ids,
    and checks given ids and files."""
    over_folds = False
    for field in upstream_fields(config):
        change = {field.name: _resolved(config, field, over_folds=over_folds)}
        config = dataclasses.replace(config, **change)  # type: ignore[type-var]
        if field.name == "prepare_run":  # the first: it says whether the others may be over folds
            over_folds = bool(folds_of(config))
    return config


def _resolved(config: Any, field: dataclasses.Field[Any], *, over_folds: bool = False) -> str:
    """The value of a field as run ids, as checkpoint files from the root on, or `none`."""
    value, stage = str(getattr(config, field.name)), field.metadata["stage"]
    if value == LATEST:
        return _newest_or_way_out(field)
    if value == NONE and field.metadata.get("optional"):
        return NONE
    if files := given_files(field.name, value, stage=stage, takes=field.metadata.get("files", "none")):
        return files
    several = "several" in field.metadata
    run_ids = value.split(",") if several or "each" in field.metadata else [value]
    found = [runs.finished_run(run_id, *_stages(config, field, over_folds=over_folds)) for run_id in run_ids]
    return ",".join(run_id for run in found for run_id in with_all_seeds(run)) if several else value


def _stages(config: Any, field: dataclasses.Field[Any], *, over_folds: bool) -> list[str]:
    """Whose runs the field may name: those over folds as data and as teachers, else where the data are over
    folds too."""
    stage = field.metadata["stage"]
    seeds = "several" in field.metadata or bool(getattr(config, "seeds", None))
    folds = field.name == "prepare_run" or "each" in field.metadata or over_folds
    return [stage, *[stage + SEEDS.suffix] * seeds, *[stage + FOLDS.suffix] * folds]


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
