"""A stage with several seeds: a child run with each, mean and interval in their parent."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import mlflow
import pandas as pd

from adaptf.errors import UserError
from adaptf.evaluation.intervals import mean_interval
from adaptf.evaluation.tables import as_markdown
from adaptf.pipeline.config import upstream_fields
from adaptf.tracking import runs
from adaptf.tracking.checkpoint_files import files_of
from adaptf.tracking.runs import Result, StageRun, UpstreamError

SEEDS_SUFFIX = "_seeds"
"""Of the parent's stage: it has no checkpoint that a later stage could pull."""
_TABLE = "seeds.csv"


def _with_seed(config: Any, seed: int) -> Any:
    """The configuration with one of the seeds;
    where it builds on runs over seeds, on those with the same seed."""
    changes = {field.name: _of_seed(getattr(config, field.name), seed) for field in upstream_fields(config)}
    return replace(config, seed=seed, seeds=(), **changes)


def _of_seed(value: str, seed: int) -> str:
    """The run with this seed, where the value is the id of a run over seeds; else the value.
    Of several ids, each."""
    if value in (runs.LATEST, runs.NONE) or files_of(value):
        return value
    if "," in value:
        return ",".join(_of_seed(run_id, seed) for run_id in value.split(","))
    children = runs.seed_runs(mlflow.get_run(value))
    if children and seed not in children:
        raise UpstreamError(
            f"run {value} holds the seeds {', '.join(map(str, children))}, seed {seed} is needed"
        )
    return children.get(seed, value)


def _scores_over_seeds(config: Any, children: Mapping[int, str], run: StageRun) -> Result:
    """Mean, standard deviation and 95 % interval of every score of the children."""
    rows = "\n".join(f"| {seed} | {run_id} |" for seed, run_id in children.items())
    listed = f"| seed | run |\n|---|---|\n{rows}"
    found = {seed: runs.scores(run_id) for seed, run_id in children.items()}
    if not any(found.values()):  # refits, which nothing judges
        return Result(note=listed, summary=f"{run.name}\n{listed}")
    scores = pd.DataFrame(found).dropna()
    if scores.empty:
        raise UserError(f"no score is known of all seeds: {', '.join(children.values())}")
    table = pd.DataFrame({name: asdict(mean_interval(list(values))) for name, values in scores.iterrows()}).T
    table = table.rename_axis("score").astype({"runs": int})
    path = run.folder / _TABLE
    pd.concat([table, scores.add_prefix("seed ")], axis=1).to_csv(path, index_label="score")
    shown = as_markdown(table.map(lambda value: f"{value:.4g}"))
    return Result(
        metrics={
            f"{score}/{name}": float(table.loc[score, name])
            for score in table.index
            for name in ("mean", "std")
        },
        files={_TABLE: path},
        note=f"{shown}\n\n{listed}",
        summary=f"{run.name}\n{shown}",
    )


@dataclass(frozen=True)
class OverSeeds:
    """How a stage goes over seeds."""

    config_of: Callable[[Any, int], Any] = _with_seed
    """The configuration of one seed's run."""
    result: Callable[[Any, Mapping[int, str], StageRun], Result] = _scores_over_seeds
    """What the parent makes of its children: from its configuration, run ids by seed, and its run."""
