"""What another model changes:
which clips are gained and lost, and by how much accuracy differs per scene and per device."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from adaptf.evaluation.bootstrap import DRAWS, SIGNIFICANT, paired_bootstrap
from adaptf.evaluation.scores import TEXT_COLUMNS, Runs, macro_accuracy, probabilities
from adaptf.evaluation.tables import DIFFERENCE, HIGH, LOW, STANDS, P

GAINED, LOST, STILL_WRONG = "gained", "lost", "still wrong"
"""Kinds of clips whose prediction changes:
to the true scene, away from it, from one wrong scene to another."""
_KINDS = [GAINED, LOST, STILL_WRONG]
CHANGE, _PAIR, _CLIPS = "change", "pair", "clips"
OWN_COLUMNS = {*TEXT_COLUMNS, CHANGE, _PAIR, _CLIPS, DIFFERENCE, LOW, HIGH, P, STANDS, *_KINDS}
"""Of the tables below; a setting has to be called otherwise."""
_GroupedBy = Literal["scene", "device"]


def changed_clips(first: Runs, second: Runs, names: tuple[str, str], scenes: Sequence[str]) -> pd.DataFrame:
    """A row per clip, and pair of runs, whose prediction changes; lost ones first, the surest mistake on top.

    `names` are those of the two settings: a column holds the scene that each predicted, another one its
    probability in percent. Both settings should hold the same clips, as `paired_bootstrap` checks,
    and be called otherwise than OWN_COLUMNS.
    """
    pairs = [_changed(old, new, names, scenes) for old, new in zip(first, second, strict=True)]
    table = pd.concat(
        [pair.assign(**{_PAIR: number}) for number, pair in enumerate(pairs, 1)], ignore_index=True
    )
    order = {LOST: 0, GAINED: 1, STILL_WRONG: 2}
    sure = table[_confidence(names[0])].where(table[CHANGE] == GAINED, table[_confidence(names[1])])
    keys = table.assign(order=table[CHANGE].map(order), sure=-sure)
    table = table.loc[
        keys.sort_values(["order", "sure", "filename", _PAIR], kind="stable").index
    ].reset_index(drop=True)
    return table if len(first) > 1 else table.drop(columns=_PAIR)


def group_table(
    first: Runs,
    second: Runs,
    names: tuple[str, str],
    changes: pd.DataFrame,
    *,
    by: _GroupedBy,
    draws: int = DRAWS,
) -> pd.DataFrame:
    """A row per scene or device: clips, macro-average accuracies in percent (means over runs), their
    difference in points with its 95 % interval, and how many of the `changes` (`changed_clips`, over all
    pairs of runs) are gained, lost and still wrong.

    Each interval is that of its row alone. Of ten rows without a difference one would stand by chance more
    often than one in twenty: `stands` is 'yes' where p, corrected for the number of rows, is below 0.05
    (Holm, 1979, A simple sequentially rejective multiple test procedure),
    and '-' where no places can be drawn.
    """
    groups = sorted(first[0][by].unique())
    parts = [
        ([run[run[by] == group] for run in first], [run[run[by] == group] for run in second])
        for group in groups
    ]
    found = [paired_bootstrap(*part, draws=draws) for part in parts]
    table = pd.DataFrame({_CLIPS: [len(part[0][0]) for part in parts]}, index=pd.Index(groups, name=by))
    for place, name in enumerate(names):
        table[name] = [100 * float(np.mean([macro_accuracy(run) for run in part[place]])) for part in parts]
    table[DIFFERENCE] = [100 * one.mean for one in found]
    table[LOW], table[HIGH] = [100 * one.low for one in found], [100 * one.high for one in found]
    table[P] = holm([one.p for one in found])
    table[STANDS] = table[P].map(lambda p: "-" if np.isnan(p) else "yes" if p < SIGNIFICANT else "no")
    counts = pd.crosstab(changes[by], changes[CHANGE])
    return table.join(counts.reindex(index=groups, columns=_KINDS, fill_value=0))


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number, in their order; those that are nan stay so and do not count."""
    p = np.asarray(values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected.tolist()


def _changed(
    old: pd.DataFrame, new: pd.DataFrame, names: tuple[str, str], scenes: Sequence[str]
) -> pd.DataFrame:
    """The clips of one pair of runs, in the order of the first."""
    new = new.set_index("filename").loc[old["filename"]].reset_index()
    table = pd.DataFrame({CHANGE: _kinds(old, new)}).join(old[list(TEXT_COLUMNS[:-1])].reset_index(drop=True))
    for name, run in zip(names, (old, new), strict=True):
        table[name] = run["predicted"].to_numpy()
        table[_confidence(name)] = 100 * probabilities(run, scenes).max(axis=1)
    return table[old["predicted"].to_numpy() != new["predicted"].to_numpy()]


def _kinds(old: pd.DataFrame, new: pd.DataFrame) -> np.ndarray:
    """Of each clip, whatever is meant for those that do not change."""
    was, now = ((run["predicted"] == run["scene"]).to_numpy() for run in (old, new))
    return np.select([now & ~was, was & ~now], [GAINED, LOST], STILL_WRONG)


def _confidence(name: str) -> str:
    return f"confidence of {name}"
