"""Stage `register`: a version of a registered model for each device,
and of the router that holds them all."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from adaptf.data.clips import UNKNOWN
from adaptf.evaluation.forward_filter import StreamCalibration
from adaptf.evaluation.profile import Profile
from adaptf.evaluation.stream_calibration import calibrate_stream
from adaptf.models.device_from_sound import DEVICE_FROM_SOUND
from adaptf.names import written
from adaptf.pipeline.artifacts import (
    DESCRIPTION,
    DEVICE_TAG,
    EVALUATE_RUN,
    INT8,
    INT8_ACCURACY,
    QUANTIZE_RUN,
    VALIDATION_PREDICTIONS,
    VERSIONS,
    figure_tag,
    quantization,
)
from adaptf.pipeline.config import upstream, upstream_several
from adaptf.pipeline.lineage import Node, flat, tree
from adaptf.pipeline.prediction_files import read_predictions
from adaptf.pipeline.profiles import ProfileConfig, device_profiles
from adaptf.pipeline.ranges import POSITIVE, within
from adaptf.pipeline.refit import refits_of, what_clips_judge
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.validation import QUANTIZED, read_by_own_models
from adaptf.reports.version_page import commit, device_page, files_behind, learnt_digest, router_page
from adaptf.serving.bundle import bundle_hash, write_bundle
from adaptf.serving.router_model import log_router
from adaptf.tracking import production, registry, runs
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import NONE, UpstreamError
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import DATA_DIGEST, UPSTREAM

COMMIT_TAG = "adaptf.git_commit"
FILES_TAG = "adaptf.from_files"
"""Checkpoint files of the user's that a version came from."""
FIGURES = (
    "float accuracy", INT8_ACCURACY, "relative loss", "standing loss", "logit error", "INT8 convolutions",
    "parameters", "macs", "model_bytes", "served macs", "served bytes",
)  # fmt: skip
"""Columns of the quantization's report that become tags."""


@dataclass(frozen=True)
class RegisterConfig:
    """Registers INT8 models and their router."""

    quantize_run: str = upstream("quantize")
    """Run of `quantize` that holds the INT8 models."""
    evaluate_run: str = upstream_several("evaluate")
    """Run of `evaluate` that scored them on the test clips, for their descriptions: the first that did so of
    several; `none`: they say that there is none."""
    max_seconds: float = within(POSITIVE, 60.0)
    """Longest audio of one row of a request, in seconds."""
    profile: ProfileConfig = ProfileConfig()


def register_versions(config: RegisterConfig, run: StageRun) -> Result:
    """Each device's model alone, answering for every device,
    then the router with all of them and their versions."""
    int8 = run.download(config.quantize_run, INT8)
    report = quantization(run, config.quantize_run)
    description = json.loads((int8 / DESCRIPTION).read_text())
    stream = stream_calibration(run, config.quantize_run, description["classes"])
    evaluated = scoring_run(config)
    predictions = read_scores(run, evaluated, config.quantize_run)
    versions: dict[str, str] = {}
    models: dict[str, tuple[Path, str]] = {}
    hashes: dict[str, str] = {}
    told_by = device_from_sound(run, config.quantize_run)
    profiles = device_profiles(
        run, config.quantize_run, description["classes"], description["features"], config.profile
    )
    there = production.versions_made_by(run.run_id)  # before it was interrupted

    def add(
        name: str,
        held: dict[str, tuple[Path, str]],
        heard: dict[str, Profile],
        tags: dict[str, str],
        text: str,
        came: list[Node],
    ) -> str:
        """The hash of the version's bundle."""
        known, by_sound = (hashes, told_by) if name == registry.ROUTER_NAME else (None, None)
        folder = bundle(
            run.folder / name, description, held, config.max_seconds, known, stream, by_sound, heard
        )
        sha256 = bundle_hash(folder)
        tags |= {QUANTIZE_RUN: config.quantize_run, EVALUATE_RUN: evaluated}
        tags |= {DATA_DIGEST: learnt_digest(came), COMMIT_TAG: commit(came)}
        tags = {tag: value for tag, value in tags.items() if value} | {registry.BUNDLE_HASH: sha256}
        if name in there:
            versions[name] = there[name]
            registry.describe(name, versions[name], text)
        else:
            uri = log_router(folder, name)
            versions[name] = registry.register(uri, name, tags=tags, description=text)
        print(f"{run.name}: {name} version {versions[name]}", flush=True)
        return sha256

    for path in sorted(int8.glob("[!.]*.pt2")):
        device = written(path.stem)
        name = registry.device_model_name(device)
        came = runs_behind(config.quantize_run, evaluated, device)
        text = device_page(device, report, predictions, evaluated, came)
        tags = {DEVICE_TAG: device, FILES_TAG: files_behind(came)} | scores_of(report, device)
        heard = {UNKNOWN: profiles[device]} if device in profiles else {}
        hashes[device] = add(name, {UNKNOWN: (path, name)}, heard, tags, text, came)
        models[device] = (path, f"{name}/{versions[name]}")
    came = runs_behind(config.quantize_run, evaluated, None)
    held = {device: version for device, (_, version) in models.items()}
    add(registry.ROUTER_NAME, models, profiles, {}, router_page(held, predictions, evaluated, came), came)
    path = run.folder / VERSIONS
    path.write_text(json.dumps(versions, indent=1))
    lines = "\n".join(f"| {name} | {version} |" for name, version in versions.items())
    return Result(files={VERSIONS: path}, note=f"| model | version |\n|---|---:|\n{lines}")


def stream_calibration(run: StageRun, quantize_run: str, scenes: Sequence[str]) -> StreamCalibration | None:
    """From the validation clips, each by the INT8 model of its device; None where the run has kept none."""
    try:
        predictions = read_by_own_models(run.download(quantize_run, VALIDATION_PREDICTIONS))
    except UpstreamError:
        return None
    found = calibrate_stream(predictions, scenes)
    told = what_clips_judge(refits_of(quantize_run))
    print(
        f"{run.name}: streams: logits times {found.factor:.2f}, dependence {found.dependence:.2f}, "
        f"unsure below {found.threshold:.2f}, by validation clips, {told}",
        flush=True,
    )
    return found


def scoring_run(config: RegisterConfig) -> str:
    """The first run of `evaluate` that was given and scored these models, else the newest that did,
    or `none`."""
    if config.evaluate_run == NONE:
        return NONE
    for given in config.evaluate_run.split(","):
        if config.quantize_run in scored_by(given):
            return given
    tags = {f"{UPSTREAM}quantize_run": config.quantize_run}
    print(
        f"run {config.evaluate_run} of evaluate scored other models than those of run {config.quantize_run}",
        flush=True,
    )
    return next((str(run.info.run_id) for run in runs.finished_runs("evaluate", tags)), NONE)


def scored_by(evaluated: str) -> list[str]:
    """The runs of `quantize` that a run of `evaluate` scored."""
    return str(mlflow.get_run(evaluated).data.tags.get(f"{UPSTREAM}quantize_run", NONE)).split(",")


def read_scores(run: StageRun, evaluated: str, quantized: str) -> pd.DataFrame | None:
    """The predictions of the test clips by the INT8 models, each clip by that of its device;
    None where there are none."""
    if evaluated == NONE:
        return None
    return read_predictions(run, evaluated, QUANTIZED, scored_by(evaluated).index(quantized))


def device_from_sound(run: StageRun, quantize_run: str) -> Path | None:
    """What tells devices by their sound, as the run of `finetune` left it whose models were quantized; None
    where it left nothing, or the models came from files."""
    for node in runs_behind(quantize_run, NONE, None):
        if node.stage == "finetune":
            left = mlflow.MlflowClient().list_artifacts(node.run_id)
            if any(one.path == DEVICE_FROM_SOUND for one in left):
                return run.download(node.run_id, DEVICE_FROM_SOUND)
    return None


def runs_behind(quantized: str, evaluated: str, device: str | None) -> list[Node]:
    """What the INT8 model of a device came from, or those of all, and the run that scored it."""
    scored = flat(tree(evaluated)) if evaluated != NONE else []
    return [*flat(tree(quantized, device)), *scored]


def bundle(
    folder: Path,
    description: dict[str, Any],
    models: dict[str, tuple[Path, str]],
    max_seconds: float,
    hashes: Mapping[str, str] | None,
    stream: StreamCalibration | None,
    by_sound: Path | None,
    profiles: Mapping[str, Profile],
) -> Path:
    """The router's folder for these devices: INT8 file and version of each; `hashes` by device are those of
    the versions' own bundles, `by_sound` is what tells devices by their sound, `profiles` what drift is told
    by."""
    shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted run
    write_bundle(
        folder,
        models,
        scenes=description["classes"],
        mel=description["features"],
        sample_rate=description["features"]["sample_rate"],
        clip_samples=description["clip_samples"],
        max_seconds=max_seconds,
        hashes=hashes,
        stream=stream,
        device_from_sound=by_sound,
        profiles={device: profile.as_dict() for device, profile in profiles.items()},
    )
    return folder


def scores_of(report: pd.DataFrame, device: str) -> dict[str, str]:
    """The quantization's figures of a device as tags: those that promotion checks, and few others, because a
    model's page shows all tags of all versions."""
    figures = report.loc[device].reindex(list(FIGURES)).dropna()
    return {figure_tag(str(name)): str(value) for name, value in figures.items()}


REGISTER = Stage("register", run=register_versions, config=RegisterConfig)


if __name__ == "__main__":
    REGISTER.main()
