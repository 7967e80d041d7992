"""Running a stage in an MLflow run. This file knows no stage."""

import dataclasses
import json
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

import lightning as L
import mlflow
import torch
import yaml

from adaptf.data.decode import AUDIO_SUFFIXES
from adaptf.data.folders import files_below
from adaptf.data.hashes import sha256_of
from adaptf.data.shared_objects import SharedObjects
from adaptf.errors import UserError
from adaptf.pipeline.command_line import command_arguments, parse
from adaptf.pipeline.config import content_folders, settings, upstream_fields
from adaptf.pipeline.given_files import given_files
from adaptf.pipeline.run_names import describe
from adaptf.pipeline.seeds import SEEDS_SUFFIX, Study, over_seeds
from adaptf.tracking import runs
from adaptf.tracking.checkpoint_files import digests_of
from adaptf.tracking.runs import LATEST, NONE, Result, StageRun, StopTraining, UpstreamError, Watch

Config = TypeVar("Config")
Stage = Callable[[Any, StageRun], Result]
Inputs = Callable[[Any], str]
"""Digest of what a stage reads from outside MLflow (a data set, a checkpoint file), from its configuration."""


def run_stage(stage: Stage, config_class: type, *, inputs: Inputs | None = None, study: Study = Study()) -> None:
    """The body of an entry point: parse, then execute; a user's mistake ends it with its message alone."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    quiet_libraries()
    config: Any = parse(config_class, stage=stage.__name__, arguments=command_arguments())
    runs.use_default_store()
    try:
        run_id = execute(stage, config, inputs=inputs, study=study)
    except UserError as error:
        sys.exit(f"\n{stage.__name__}: {error}")
    if runs.is_process_zero():
        print(f"{stage.__name__} finished: run {run_id}", flush=True)


def execute(
    stage: Stage,
    config: Any,
    *,
    inputs: Inputs | None = None,
    name: str = "",
    reuse: bool = False,
    study: Study = Study(),
    watch: Watch | None = None,
    shared: SharedObjects | None = None,
) -> str:
    """Runs a stage and returns its run's id.

    Without a `name` the run is called after the stage and its settings. Within an active run it becomes a nested one. With
    `reuse`, a finished run of the same configuration, code, inputs and data is taken instead. An interrupted run of that kind
    is continued. With `config.seeds` there is a nested run for each of them, and `study` says what their parent makes of them.
    `watch` is told of the validations of this run's own training, not of nested runs, and may end it by StopTraining. Stages
    that get the same `shared` read their data once.
    """
    shared = shared or SharedObjects()
    if getattr(config, "seeds", ()):
        stage = over_seeds(partial(execute, stage, inputs=inputs, reuse=True, shared=shared), study, name=stage.__name__)
    stage_name = stage.__name__
    config = resolve_upstream(config)
    name = name or describe(stage_name, config)
    fingerprint = fingerprint_of(stage_name, config, inputs(config) if inputs else "")
    if reuse and (finished := runs.find_finished(stage_name, fingerprint)):
        print(f"{name}: already finished in run {finished.info.run_id}, taken from there", flush=True)
        return str(finished.info.run_id)
    with runs.work_folder(stage_name, fingerprint) as folder:
        seed = getattr(config, "seed", 0)
        L.seed_everything(seed, verbose=False)
        if not runs.is_process_zero():
            stage(config, StageRun("of-process-zero", name, folder, watch, shared))
            wait_for_all_processes()
            return "of-process-zero"
        with start_or_join(stage_name, fingerprint, name) as active:
            run_id = active.info.run_id
            log_configuration(config)
            try:
                result = stage(config, StageRun(run_id, name, folder, watch, shared))
                runs.log_result(result)
            except StopTraining:
                mlflow.delete_tag(runs.FINGERPRINT)  # it would be continued as an interrupted run
                mlflow.end_run("KILLED")
                shutil.rmtree(folder)
                raise
            except BaseException:
                mlflow.log_text(traceback.format_exc(), "error.txt")
                raise
            if result.summary:
                print(f"\n{result.summary}\n", flush=True)
        wait_for_all_processes()
        shutil.rmtree(folder)
    return run_id


def wait_for_all_processes() -> None:
    """The others may still read what process 0 is about to delete."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def resolve_upstream(config: Config) -> Config:
    """Replaces `latest` in the fields that name other stages' runs by run ids, and checks ids and files that were given."""
    changes = {field.name: resolved(config, field) for field in upstream_fields(config)}
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def resolved(config: Any, field: dataclasses.Field[Any]) -> str:
    """The value of a field as run ids, as checkpoint files from the root on, or `none`."""
    value, stage = str(getattr(config, field.name)), field.metadata["stage"]
    if value == LATEST:
        return newest_or_way_out(field)
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


def newest_or_way_out(field: dataclasses.Field[Any]) -> str:
    """What `latest` means. Raises UpstreamError, which says so where the stage can do without."""
    try:
        return newest(field)
    except UpstreamError as error:
        if not field.metadata.get("optional"):
            raise
        raise UpstreamError(f"{error}, or do without: {field.name}={NONE}") from error


def newest(field: dataclasses.Field[Any]) -> str:
    """What `latest` means."""
    stage = field.metadata["stage"]
    if "each" in field.metadata:
        return ",".join(runs.latest_of_each(stage, field.metadata["each"]))
    if "several" in field.metadata and not runs.any_finished(stage):
        print(f"{field.name}: no run of '{stage}' has finished, it is left out", flush=True)
        return NONE
    return runs.latest(stage, field.metadata["tags"])


def fingerprint_of(stage: str, config: Any, inputs: str) -> str:
    """Digest of stage, configuration, code, inputs and of what the upstream runs were made from."""
    upstream = {field.name: upstream_fingerprint(getattr(config, field.name)) for field in upstream_fields(config)}
    folders = content_folders(config)
    files = [folder / name for folder in folders for name in files_below(folder, suffixes=AUDIO_SUFFIXES)]
    contents = {str(path): sha256_of(path) for path in files}
    values = dataclasses.asdict(config) | upstream | contents
    return runs.digest(stage, json.dumps(values, sort_keys=True, default=str), runs.package_digest(), inputs)


def upstream_fingerprint(value: str) -> str:
    """Of a list of run ids, `none`, or the content of checkpoint files."""
    if value == NONE:
        return NONE
    if digests := digests_of(value):
        return json.dumps(digests)
    return ",".join(runs.fingerprint_of(mlflow.get_run(run_id)) for run_id in value.split(","))


def start_or_join(stage: str, fingerprint: str, name: str) -> AbstractContextManager[mlflow.ActiveRun]:
    """The run that `mlflow run` made, an interrupted run of the same work, or a new one (nested within an active one)."""
    parent = mlflow.active_run()
    tags = {runs.STAGE: stage, runs.FINGERPRINT: fingerprint}
    if parent is None and "MLFLOW_RUN_ID" in os.environ:
        active = mlflow.start_run()
        mlflow.set_tags(tags)
    elif interrupted := runs.find_interrupted(stage, fingerprint):
        print(f"{name}: continues run {interrupted.info.run_id}", flush=True)
        active = mlflow.start_run(run_id=interrupted.info.run_id, nested=parent is not None)
    else:
        experiment = runs.experiment_id()
        active = mlflow.start_run(experiment_id=experiment, nested=parent is not None, tags=tags)
    os.environ["MLFLOW_EXPERIMENT_ID"] = active.info.experiment_id  # for the processes that a strategy starts
    runs.name_run(active.info.run_id, name, parent=parent.info.run_id if parent else None)
    return active


def log_configuration(config: Any) -> None:
    """The whole configuration as config.yaml and as those parameters that the run does not have yet; upstream runs as tags.

    `mlflow run` has logged what its command line said, such as `latest`: the tags say which runs or files that was.
    """
    taken = {field.name: getattr(config, field.name) for field in upstream_fields(config)}
    mlflow.set_tags({f"{runs.UPSTREAM}{name}": value for name, value in taken.items()})
    mlflow.set_tags({tag: label for name, value in taken.items() for tag, label in runs.file_tags(name, value).items()})
    values = dataclasses.asdict(config)
    mlflow.log_text(yaml.safe_dump(plain(values), sort_keys=False), "config.yaml")
    active = mlflow.active_run()
    known = mlflow.get_run(active.info.run_id).data.params if active else {}
    mlflow.log_params({key: value for key, value in settings(config).items() if key not in known})


def plain(values: Mapping[str, Any]) -> Any:
    """Tuples as lists, as YAML has them."""
    return json.loads(json.dumps(values))


def quiet_libraries() -> None:
    """Lightning and MLflow talk of themselves at the level of what a stage has to say; a router has a line per request."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("lightning.pytorch", "lightning.fabric", "mlflow", "alembic", "httpx", "adaptf.router"):
        logging.getLogger(name).setLevel(logging.WARNING)
