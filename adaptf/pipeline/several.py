"""A stage done several times, once per seed or once per fold: what its children get, and what their parent
tells of them."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import mlflow
import pandas as pd

from adaptf.errors import UserError
from adaptf.evaluation.intervals import mean_interval
from adaptf.evaluation.tables import as_markdown
from adaptf.pipeline.config import DataConfig, upstream_fields
from adaptf.tracking import runs
from adaptf.tracking.checkpoint_files import files_of
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import NONE, UpstreamError
from adaptf.tracking.several import FOLDS, SEEDS, Several
from adaptf.tracking.stage_run import StageRun


def with_seed(config: Any, seed: int) -> Any:
    """The configuration with one of the seeds; where it builds on runs over seeds, on those with the same
    seed."""
    return replace(config, seed=seed, seeds=(), **_upstream_of(config, SEEDS, seed))


def with_fold(config: Any, fold: int) -> Any:
    """The configuration for one of the folds: on its data, and where it builds on runs over folds, on those
    of the same fold.

    Raises UserError for a refit, which would learn from every fold.
    """
    if getattr(config, "refit", False):
        raise UserError(
            "refit and folds don't go together: a refit learns from all clips, whichever the fold"
        )
    data = {"data": replace(config.data, fold=fold)} if _has_data(config) else {}
    return replace(config, **data, **_upstream_of(config, FOLDS, fold))


def folds_of(config: Any) -> tuple[int, ...]:
    """The folds over which a stage is to go: those that it prepares, or of the data that it was given; empty
    for one split."""
    if _has_data(config):
        return () if config.data.fold else tuple(range(1, config.data.folds + 1))
    prepare_run = getattr(config, "prepare_run", NONE)
    return () if prepare_run in (runs.LATEST, NONE) else tuple(FOLDS.children(mlflow.get_run(prepare_run)))


def _has_data(config: Any) -> bool:
    return isinstance(getattr(config, "data", None), DataConfig)


def _upstream_of(config: Any, several: Several, number: int) -> dict[str, str]:
    """The fields that name other stages' runs, for one child."""
    return {
        field.name: _of_child(getattr(config, field.name), several, number)
        for field in upstream_fields(config)
    }


def _of_child(value: str, several: Several, number: int) -> str:
    """The run with this number, where the value is the id of a run over several; else the value. Of several
    ids, each."""
    if value in (runs.LATEST, runs.NONE) or files_of(value):
        return value
    if "," in value:
        return ",".join(_of_child(run_id, several, number) for run_id in value.split(","))
    children = several.children(mlflow.get_run(value))
    if children and number not in children:
        raise UpstreamError(
            f"run {value} holds the {several.what}s {', '.join(map(str, children))}, "
            f"{several.what} {number} is needed"
        )
    return children.get(number, value)


def scores_over(several: Several, children: Mapping[int, str], run: StageRun) -> Result:
    """Mean, standard deviation and 95 % interval of every score of the children."""
    rows = "\n".join(f"| {number} | {run_id} |" for number, run_id in children.items())
    listed = f"| {several.what} | run |\n|---|---|\n{rows}"
    found = {number: runs.scores(run_id) for number, run_id in children.items()}
    if not any(found.values()):  # refits, which nothing judges
        return Result(note=listed, summary=f"{run.name}\n{listed}")
    scores = pd.DataFrame(found).dropna()
    if scores.empty:
        raise UserError(f"no score is known of all {several.what}s: {', '.join(children.values())}")
    table = pd.DataFrame({name: asdict(mean_interval(list(values))) for name, values in scores.iterrows()}).T
    table = table.rename_axis("score").astype({"runs": int})
    path = run.folder / f"{several.what}s.csv"
    pd.concat([table, scores.add_prefix(f"{several.what} ")], axis=1).to_csv(path, index_label="score")
    shown = as_markdown(table.map(lambda value: f"{value:.4g}"))
    return Result(
        metrics={
            f"{score}/{name}": float(table.loc[score, name])
            for score in table.index
            for name in ("mean", "std")
        },
        files={path.name: path},
        note=f"{shown}\n\n{listed}",
        summary=f"{run.name}\n{shown}",
    )


@dataclass(frozen=True)
class OverSeveral:
    """How a stage goes over seeds, or over folds."""

    config_of: Callable[[Any, int], Any]
    """The configuration of one child's run."""
    result: Callable[[Any, Mapping[int, str], StageRun], Result]
    """What the parent makes of its children: from its configuration, run ids by seed or fold, and its run."""


OVER_SEEDS = OverSeveral(with_seed, lambda config, children, run: scores_over(SEEDS, children, run))
OVER_FOLDS = OverSeveral(with_fold, lambda config, children, run: scores_over(FOLDS, children, run))
