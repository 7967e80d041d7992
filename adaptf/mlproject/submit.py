"""Stage `submit`: the package that is handed in to DCASE 2025 Task 1, checked as its organisers will."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from adaptf import submission
from adaptf.compression.complexity import limits_broken
from adaptf.data.clips import TEST
from adaptf.data.errors import raise_problems
from adaptf.data.sets.files_to_predict import evaluation_list
from adaptf.data.tables import read_strings
from adaptf.errors import UserError
from adaptf.evaluation.scores import log_loss, macro_accuracy, prediction_table
from adaptf.names import missing_file
from adaptf.pipeline.artifacts import DATA, DATA_KIND, DATASET, SCENES_KIND
from adaptf.pipeline.config import path_field, upstream
from adaptf.pipeline.dataset import PreparedData, load_tested
from adaptf.pipeline.ranges import Range, within
from adaptf.pipeline.stage import Stage, nothing_tells
from adaptf.pipeline.validation import SYNTHESISED
from adaptf.submission.agreement import check_scenes, reference_logits
from adaptf.submission.environment import Maker, make_environment, run_python
from adaptf.submission.meta import filled_in, meta, read_details, results_of
from adaptf.submission.models import Submitted, came_from, submitted
from adaptf.submission.rules import check_training_clips, untold
from adaptf.submission.write import write_package
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import NONE
from adaptf.tracking.stage_run import StageRun

PACKAGE = "package"
"""Artifact folder: with setup.py, requirements.txt and the package itself."""
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9]*_[A-Za-z0-9]+")
_AS_ORGANISERS = Path(submission.__file__).with_name("as_organisers.py")
_LEFT = ("complexity.json", "test_accuracy.json", "output.csv")
"""What the organisers' scripts leave, and the stage as artifacts."""


@dataclass(frozen=True)
class SubmitConfig:
    """Makes a submission for DCASE 2025 Task 1, and checks it as its organisers will."""

    label: str = NONE
    """Last name and institute, as in Schmid_CPJKU: the package is called <label>_task1."""
    index: int = within(Range("1 to 4", lambda number: 1 <= number <= 4), 1)
    """Which of four submissions it is."""
    register_run: str = field(default=NONE, metadata={"stage": "register", "tags": {}, "optional": True})
    """Run of `register` whose versions are submitted; `none`: those in production."""
    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` whose test clips the package is checked and scored on. Their files have to be on this
    machine."""
    evaluation_set: str = path_field(NONE)
    """Folder of the evaluation set (evaluation_setup/fold1_test.csv or test.csv), whose files are predicted
    for output.csv; `none`: that is left to the organisers' script."""
    details: str = path_field(NONE)
    """YAML file with what only you know of the meta file, such as authors and links, in its own layout; what
    stands there is taken before what was found out."""
    environment: Maker = "pip"
    """Where the package is tried: an environment with its requirements.txt, which pip fetches; installed: one
    without network, with links to what is installed here."""
    constraints: str = path_field(NONE)
    """File of constraints for pip, such as one that asks for a torch without CUDA."""


def check_submission(config: SubmitConfig) -> None:
    """Raises UserError for a label that none is, and for files that are missing or hold something else."""
    if not _LABEL.fullmatch(config.label):
        raise UserError(
            f"label is '{config.label}': give your last name and institute as in -P label=Schmid_CPJKU"
        )
    if config.evaluation_set != NONE:
        root = Path(config.evaluation_set)
        names = files_to_predict(root)["filename"]
        raise_problems(missing_files(root, names), of=config.evaluation_set)
    read_details(config.details)


def files_to_predict(root: Path) -> pd.DataFrame:
    """filename and device_id of an evaluation set. Raises DataError where its list is none."""
    return read_strings(evaluation_list(root), ["filename", "device_id"])


def missing_files(root: Path, names: Iterable[str]) -> list[str]:
    """What is to be said of each that is not there under this very name."""
    return [f"{name}: {missing_file(root / name)}" for name in names if not os.path.isfile(root / name)]


def submit(config: SubmitConfig, run: StageRun) -> Result:
    """Raises UserError where a rule is broken, or the package says another scene than the versions do."""
    shutil.rmtree(run.folder / PACKAGE, ignore_errors=True)  # of an interrupted run
    data, test, root = test_clips(config, run)
    models = submitted(run, config.register_run)
    if unlike := set(models.scenes) ^ set(data.classes):
        raise UserError(f"the models and the test clips differ in scenes: {', '.join(sorted(unlike))}")
    came = came_from(models)
    check_training_clips(run, came)
    name = f"{config.label}_task1"
    listed = test[["filename", "scene"]].rename(columns={"scene": "scene_label"})
    layers = write_package(run.folder / PACKAGE, name, config.index, models, listed)
    left = try_package(config, run, name, test, root)
    complexity = complexity_within_limits(left)
    scores = checked_scores(left, models, test, root)
    results = {setting: results_of(table, models.scenes) for setting, table in scores.items()}
    label = f"{name}_{config.index}"
    described = filled_in(meta(label, came, layers, complexity, results), read_details(config.details))
    files = write_figures(run.folder, label, described, layers)
    files |= {file: left / file for file in _LEFT if (left / file).is_file()}
    told = told_of(config, models, data, results, complexity, untold(came))
    return Result(
        metrics=metrics_of(scores, models.scenes, complexity),
        files={PACKAGE: run.folder / PACKAGE, **files},
        note=told,
        summary=told,
    )


def complexity_within_limits(left: Path) -> dict[str, Any]:
    """What the organisers' script counted. Raises UserError where it is too much."""
    complexity: dict[str, Any] = json.loads((left / "complexity.json").read_text())
    if broken := limits_broken(model_bytes=complexity["max_Params"], macs=complexity["max_MACs"]):
        raise UserError("the package breaks the challenge's limits: " + "; ".join(broken))
    return complexity


def checked_scores(left: Path, models: Submitted, test: pd.DataFrame, root: Path) -> dict[str, pd.DataFrame]:
    """The package's predictions of the test clips, by the networks of their devices and by the general one.
    Raises UserError where the former are of other scenes than the registered networks say."""
    with np.load(left / "test_logits.npz", allow_pickle=False) as logits:
        check_scenes(logits["by_device"], reference_logits(models, test, root), test, models.scenes)
        return {
            "device_specific": prediction_table(test, logits["by_device"], models.scenes),
            "general": prediction_table(test, logits["general"], models.scenes),
        }


def metrics_of(
    scores: Mapping[str, pd.DataFrame], scenes: Sequence[str], complexity: Mapping[str, Any]
) -> dict[str, float]:
    """Of the run: costs, and by setting the macro-average accuracy and the log loss."""
    return {
        "macs": complexity["max_MACs"],
        "model_bytes": complexity["max_Params"],
        **{f"accuracy/{setting}": macro_accuracy(table) for setting, table in scores.items()},
        **{f"log_loss/{setting}": log_loss(table, scenes) for setting, table in scores.items()},
    }


def test_clips(config: SubmitConfig, run: StageRun) -> tuple[PreparedData, pd.DataFrame, Path]:
    """The data, its test clips, and the folder that their files are in.
    Raises DataError where one is not there as a file of its own."""
    data = load_tested(run, config.prepare_run)
    stored = json.loads((run.download(config.prepare_run, DATA) / DATASET).read_text())
    root = Path(stored["audio_root"])
    test = data.table[data.table["split"] == TEST].reset_index(drop=True)
    raise_problems(missing_files(root, test["filename"]), of=str(root))
    return data, test, root


def try_package(config: SubmitConfig, run: StageRun, name: str, test: pd.DataFrame, root: Path) -> Path:
    """Does what the organisers do in an environment of the package's own;
    the folder with what their scripts leave."""
    left, package = run.folder / "tried", run.folder / PACKAGE
    left.mkdir(exist_ok=True)
    named = {"scene": "scene_label", "location": "identifier", "device": "source_label"}
    meta_csv = test[["filename", *named]].rename(columns=named)
    meta_csv.to_csv(left / "meta.csv", sep="\t", index=False)
    arguments = ["--name", name, "--index", str(config.index), "--development", str(root)]
    if config.evaluation_set != NONE:
        listed = left / "fold1_test.csv"
        files_to_predict(Path(config.evaluation_set)).to_csv(listed, sep="\t", index=False)
        arguments += ["--evaluation", config.evaluation_set, "--evaluation_list", str(listed)]
    place = run.folder / "environment"
    python = make_environment(place, package, maker=config.environment, constraints=config.constraints)
    print(f"{run.name}: the package is installed; it is tried as the organisers will", flush=True)
    print(run_python(python, [str(_AS_ORGANISERS), *arguments], cwd=left), end="", flush=True)
    for rest in ("build", f"{name}.egg-info"):
        shutil.rmtree(package / rest, ignore_errors=True)
    return left


def write_figures(
    folder: Path, label: str, described: Mapping[str, Any], layers: Mapping[str, pd.DataFrame]
) -> dict[str, Path]:
    """The meta file, and the layers of each device's network: file's name -> file."""
    described_in, counted_in = folder / f"{label}.meta.yaml", folder / "layers.csv"
    text = yaml.safe_dump(dict(described), sort_keys=False, allow_unicode=True)
    described_in.write_text(text, encoding="utf-8")
    pd.concat(layers, names=["device"]).to_csv(counted_in)
    return {one.name: one for one in (described_in, counted_in)}


def told_of(
    config: SubmitConfig,
    models: Submitted,
    data: PreparedData,
    results: Mapping[str, Any],
    complexity: Mapping[str, Any],
    unknown: list[str],
) -> str:
    """Markdown: what was made of what, and what is left to do."""
    lines = [f"| {device} | {version} |" for device, version in models.versions.items()]
    overall = {setting: one["overall"] for setting, one in results.items()}
    scored = "; ".join(
        f"{setting.replace('_', ' ')} {one['accuracy']:.2f} % (log loss {one['logloss']:.3f})"
        for setting, one in overall.items()
    )
    remarks = [
        f"{complexity['max_Params']:,} bytes and {complexity['max_MACs']:,} multiply-accumulates at most. "
        f"Macro-average accuracy on the test clips: {scored}.",
        SYNTHESISED if data.synthesised else "",
        f"Nothing tells what these learnt from: {', '.join(unknown)}." if unknown else "",
        "output.csv is missing: give the evaluation_set." if config.evaluation_set == NONE else "",
        "Authors and links in the meta file are missing: give details." if config.details == NONE else "",
    ]
    return "\n\n".join(["| device | version |\n|---|---|\n" + "\n".join(lines), *filter(None, remarks)])


SUBMIT = Stage(
    "submit",
    run=submit,
    config=SubmitConfig,
    check=check_submission,
    reads=nothing_tells,
    words=lambda config: [f"{config.label}_task1_{config.index}"],
)


if __name__ == "__main__":
    SUBMIT.main()
