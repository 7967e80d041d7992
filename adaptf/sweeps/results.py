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
from optuna.trial import FrozenTrial

from adaptf.errors import UserError
from adaptf.evaluation.tables import as_markdown
from adaptf.pipeline.config import SHARED_SECTIONS, upstream_fields
from adaptf.pipeline.stage import plain
from adaptf.reports.sweep_figures import sweep_figures
from adaptf.sweeps.places import COMPLETE, ERROR, FAILED, PRUNED, RUN, Place, place_number, places_in, values_of
from adaptf.sweeps.space import label, with_values, words
from adaptf.sweeps.study import about_of
from adaptf.sweeps.trial import ACCURACY, WORST
from adaptf.tracking.runs import Result, StageRun

BEST, TRIALS, TABLE, FRONT = "best.yaml", "trials.csv", "trials.json", "pareto"
SHOWN = 10
"""Trials on the run's page."""
NAMES = {"accuracy": "validation accuracy", "worst_device": "accuracy of the worst device"}


def results_of(study: optuna.Study, stage: str, settings: Any, run: StageRun) -> Result:
    """Of a study whose budget is used. `settings` are the stage's, from which the trials differ.

    Raises UserError where no trial was complete.
    """
    places, about = places_in(study), about_of(study)
    trials = ranked(places)
    if not trials:
        raise UserError(f"study '{study.study_name}' has no complete trial: {', '.join(states_of(places))}")
    front = [trials[0]] if len(about.objectives) == 1 else front_of(trials)
    files = {BEST: write_preset(run.folder / BEST, stage, settings, front[0])}
    for trial in front[1:]:
        name = f"{FRONT}/{place_number(trial)}.yaml"
        files[name] = write_preset(run.folder / name, stage, settings, trial)
    table = table_of(places, list(about.space), about.objectives)
    table.to_csv(run.folder / TRIALS, index=False)
    table.to_json(run.folder / TABLE, orient="split", index=False)  # the form that MLflow shows as a table
    pictures, impossible = sweep_figures(
        [place.last for place in places],
        run.folder / "figures",
        objectives=[NAMES[name] for name in about.objectives],
        labels={field: label(field) for field in about.space},
    )
    for name, why in impossible.items():
        print(f"No picture of the {name.replace('_', ' ')}: {why}", flush=True)
    counts = states_of(places)
    best = front[0]
    summary = f"{in_words(best, about.objectives)}; {', '.join(f'{count} {state}' for state, count in counts.items())}"
    return Result(
        metrics={
            ACCURACY: best.values[0],
            **({WORST: best.values[1]} if len(best.values) > 1 else {}),
            **{f"trials/{state}": float(count) for state, count in counts.items()},
        },
        files={**files, TRIALS: run.folder / TRIALS, TABLE: run.folder / TABLE, **{f"figures/{p.name}": p for p in pictures}},
        tags={MLFLOW_LOGGED_ARTIFACTS: json.dumps([{"path": TABLE, "type": "table"}])},
        note=note_of(stage, front, trials, summary, run, about.objectives),
        summary=f"{run.name}: {summary}\n\n{how_to_go_on(stage, run)}",
    )


def ranked(places: Sequence[Place]) -> list[FrozenTrial]:
    """The complete trials, the most accurate first."""
    return sorted((place.complete for place in places if place.complete), key=lambda trial: trial.values, reverse=True)


def front_of(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Of two objectives and more: the trials that no other one is as good as in all and better in one; order stays."""

    def beaten(trial: FrozenTrial, by: FrozenTrial) -> bool:
        return by.values != trial.values and all(a >= b for a, b in zip(by.values, trial.values, strict=True))

    return [trial for trial in trials if not any(beaten(trial, other) for other in trials)]


def states_of(places: Sequence[Place]) -> dict[str, int]:
    """Trials by what became of them; one that was lost and run again is one. Other workers' may still run."""
    return {**dict.fromkeys((COMPLETE, PRUNED, FAILED), 0), **Counter(place.state for place in places)}


def table_of(places: Sequence[Place], space: Sequence[str], objectives: Sequence[str]) -> pd.DataFrame:
    """A row per trial."""
    return pd.DataFrame([row_of(place, space, objectives) for place in places])


def row_of(place: Place, space: Sequence[str], objectives: Sequence[str]) -> dict[str, Any]:
    """One trial: what became of it, its scores, its values, and where its run is."""
    trial = place.counts or place.last
    values = values_of(trial)
    scores = trial.values if place.complete else [None] * len(objectives)
    took = (trial.datetime_complete - trial.datetime_start) if trial.datetime_complete and trial.datetime_start else None
    return {
        "trial": place.number,
        "state": place.state,
        **dict(zip(objectives, scores, strict=True)),
        **{field: values.get(field) for field in space},
        "epochs": trial.last_step,
        "last validation": trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None,
        "tries": len(place.tries),
        "seconds": round(took.total_seconds(), 1) if took else None,
        "run": trial.user_attrs.get(RUN),
        "error": trial.user_attrs.get(ERROR),
    }


def write_preset(path: Path, stage: str, settings: Any, trial: FrozenTrial) -> Path:
    """The stage's settings with a trial's values, as a preset: what differs from the defaults."""
    chosen = with_values(settings, values_of(trial))
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Trial {place_number(trial)} of a sweep: {words(values_of(trial))}\n"
    path.write_text(head + yaml.safe_dump(preset_of(stage, chosen), sort_keys=False))
    return path


def preset_of(stage: str, config: Any) -> dict[str, Any]:
    """What a preset has to say so that the stage gets these settings; which runs it takes from stays open."""
    left_out = {field.name for field in upstream_fields(config)}
    different = {name: value for name, value in differences(config, type(config)()).items() if name not in left_out}
    own = {name: value for name, value in different.items() if name not in SHARED_SECTIONS}
    return {name: value for name, value in different.items() if name in SHARED_SECTIONS} | ({stage: own} if own else {})


def differences(config: Any, default: Any) -> dict[str, Any]:
    """Nested, as YAML has it."""
    found = {}
    for field in fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if value != usual:
            found[field.name] = differences(value, usual) if is_dataclass(value) else plain(value)
    return found


def in_words(trial: FrozenTrial, objectives: Sequence[str]) -> str:
    """A trial in a line."""
    scores = ", ".join(f"{NAMES[name]} {value:.3f}" for name, value in zip(objectives, trial.values, strict=True))
    return f"trial {place_number(trial)}, {scores} with {words(values_of(trial))}"


def note_of(
    stage: str,
    front: Sequence[FrozenTrial],
    trials: Sequence[FrozenTrial],
    summary: str,
    run: StageRun,
    objectives: Sequence[str],
) -> str:
    """What the run's page shows on top."""
    several = len(objectives) > 1
    shown = front if several else trials[:SHOWN]
    title = "The front: no other trial beats one of these in both." if several else f"The best {len(shown)} complete trials."
    caution = (
        "The best of many trials is partly the luckiest on these validation clips: run it with several seeds beside the "
        "settings that it shall replace."
    )
    table = as_markdown(scores_and_values(shown, objectives))
    return f"**{summary}**\n\n{title}\n\n{table}\n\n{caution}\n\n```\n{how_to_go_on(stage, run)}\n```"


def scores_and_values(trials: Sequence[FrozenTrial], objectives: Sequence[str]) -> pd.DataFrame:
    """As text, a row per trial."""
    rows = []
    for trial in trials:
        scores = {NAMES[name]: f"{value:.3f}" for name, value in zip(objectives, trial.values, strict=True)}
        values = values_of(trial).items()
        texts = {label(name): f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in values}
        rows.append(scores | texts)
    return pd.DataFrame(rows, index=pd.Index([place_number(trial) for trial in trials], name="trial"))


def how_to_go_on(stage: str, run: StageRun) -> str:
    """The command that trains with the best settings."""
    return f"mlflow run . --env-manager local -e {stage} -P preset=runs:/{run.run_id}/{BEST}"
