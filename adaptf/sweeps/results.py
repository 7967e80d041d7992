"""What a sweep leaves in its run: the best settings as a preset, the trials as a table, pictures."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS
from optuna.trial import FrozenTrial, TrialState

from adaptf.errors import UserError
from adaptf.evaluation.tables import as_markdown
from adaptf.pipeline.artifacts import BEST_ACCURACY
from adaptf.pipeline.config import SHARED_SECTIONS, upstream_fields
from adaptf.pipeline.stage import plain
from adaptf.reports.sweep_figures import sweep_figures
from adaptf.sweeps.space import Space, label, with_values, words
from adaptf.sweeps.tries import ERROR, RUN, VALUES, first_number, last_tries, ranked, tries
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun

_BEST, _TRIALS, _TABLE = "best.yaml", "trials.csv", "trials.json"
_SHOWN = 10
"""Trials on the run's page."""
_SCORE = "validation accuracy"
_CAUTION = (
    "The best of many trials is partly the luckiest on these validation clips: run it with several seeds "
    "beside the settings that it shall replace."
)
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def results(study: optuna.Study, stage: str, settings: Any, run: StageRun, *, space: Space) -> Result:
    """Of a study whose budget is used. `settings` are the stage's, from which the trials differ.

    Raises UserError where no trial was complete.
    """
    trials, complete = last_tries(study), ranked(study)
    counts = {"complete": 0, "pruned": 0, "failed": 0, **Counter(_STATES[trial.state] for trial in trials)}
    if not complete:
        raise UserError(f"study '{study.study_name}' has no complete trial: {counts}")
    best = complete[0]
    summary = "; ".join([_in_words(best), ", ".join(f"{n} {state}" for state, n in counts.items())])
    go_on = f"mlflow run . --env-manager local -e {stage} -P preset=runs:/{run.run_id}/{_BEST}"
    return Result(
        metrics={BEST_ACCURACY: best.values[0]}
        | {f"trials/{state}": float(count) for state, count in counts.items()},
        files={
            _BEST: _write_preset(best, stage, settings, run.folder / _BEST),
            **_tables(trials, run.folder, space),
            **_pictures(study, run.folder),
        },
        tags={MLFLOW_LOGGED_ARTIFACTS: json.dumps([{"path": _TABLE, "type": "table"}])},
        note=f"**{summary}**\n\n{_shown(complete[:_SHOWN])}\n\n{_CAUTION}\n\n```\n{go_on}\n```",
        summary=f"{run.name}: {summary}\n\n{go_on}",
    )


def _tables(trials: Sequence[FrozenTrial], folder: Path, space: Space) -> dict[str, Path]:
    """A row per trial: for people, and in the form that MLflow shows as a table."""
    table = pd.DataFrame([_row(trial, space) for trial in trials])
    table.to_csv(folder / _TRIALS, index=False)
    table.to_json(folder / _TABLE, orient="split", index=False)
    return {name: folder / name for name in (_TRIALS, _TABLE)}


def _row(trial: FrozenTrial, space: Space) -> dict[str, Any]:
    """One trial: what became of it, its score, its values, and where its run is."""
    values = trial.user_attrs.get(VALUES, {})
    return {
        "trial": first_number(trial),
        "state": _STATES[trial.state],
        "accuracy": trial.values[0] if trial.state == TrialState.COMPLETE else None,
        **{field: values.get(field) for field in space},
        "epochs": trial.last_step,
        "best validation": max(trial.intermediate_values.values(), default=None),
        "tries": tries(trial),
        "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
        "run": trial.user_attrs.get(RUN),
        "error": trial.user_attrs.get(ERROR),
    }


def _pictures(study: optuna.Study, folder: Path) -> dict[str, Path]:
    """Those that the trials can show; a word for each other one."""
    pictures, impossible = sweep_figures(study, folder / "figures", score=_SCORE)
    for name, why in impossible.items():
        print(f"No picture of the {name.replace('_', ' ')}: {why}", flush=True)
    return {f"figures/{picture.name}": picture for picture in pictures}


def _write_preset(trial: FrozenTrial, stage: str, settings: Any, path: Path) -> Path:
    """The stage's settings with the values of a trial."""
    values = trial.user_attrs[VALUES]
    content = yaml.safe_dump(_preset(stage, with_values(settings, values)), sort_keys=False)
    path.write_text(f"# Trial {first_number(trial)} of a sweep: {words(values)}\n{content}")
    return path


def _preset(stage: str, config: Any) -> dict[str, Any]:
    """What a preset has to say so that the stage gets these settings; which runs it takes from stays open."""
    left_out = {field.name for field in upstream_fields(config)}
    found = _differences(config, type(config)()).items()
    shared = {name: value for name, value in found if name in SHARED_SECTIONS}
    own = {name: value for name, value in found if name not in (*SHARED_SECTIONS, *left_out)}
    return shared | ({stage: own} if own else {})


def _differences(config: Any, default: Any) -> dict[str, Any]:
    """Nested, as YAML has it."""
    found = {}
    for field in fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if value != usual:
            found[field.name] = _differences(value, usual) if is_dataclass(value) else plain(value)
    return found


def _in_words(trial: FrozenTrial) -> str:
    """A trial in a line."""
    return (
        f"trial {first_number(trial)}, {_SCORE} {trial.values[0]:.3f} with {words(trial.user_attrs[VALUES])}"
    )


def _shown(trials: Sequence[FrozenTrial]) -> str:
    """Scores and values, a row per trial, with a title."""
    rows = []
    for trial in trials:
        values = trial.user_attrs[VALUES].items()
        texts = {
            label(name): f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in values
        }
        rows.append({_SCORE: f"{trial.values[0]:.3f}"} | texts)
    table = pd.DataFrame(rows, index=pd.Index([first_number(trial) for trial in trials], name="trial"))
    return f"The best {len(trials)} complete trials.\n\n{as_markdown(table)}"
