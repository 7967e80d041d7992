"""Tables of the settings:
by scene, by device, their macro averages with intervals, and the differences between them."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise

import pandas as pd

from adaptf.data.errors import DataError
from adaptf.evaluation.bootstrap import DRAWS, Difference, paired_bootstrap
from adaptf.evaluation.intervals import mean_interval
from adaptf.evaluation.scores import (
    Runs,
    accuracy_per_scene,
    log_loss,
    macro_accuracy,
    macro_accuracy_per_device,
)
from adaptf.names import in_markdown

MACRO_AVERAGE, LOG_LOSS = "macro average", "log loss"
SEEN, UNSEEN = "known devices", "unknown devices"
_STD, _MEAN_LOW, _MEAN_HIGH, RUNS = "std", "95 % low", "95 % high", "runs"
DIFFERENCE, LOW, HIGH, RUNS_LOW, RUNS_HIGH, STANDS = (
    "difference",
    "low",
    "high",
    "runs low",
    "runs high",
    "stands",
)
P = "p (Holm)"
_TWO_DIGITS = {LOG_LOSS, _STD, DIFFERENCE, LOW, HIGH, RUNS_LOW, RUNS_HIGH, P}
"""Rows and columns whose figures are small: one digit would hide on which side of zero they lie."""


def scene_table(settings: Mapping[str, Runs], scenes: Sequence[str]) -> pd.DataFrame:
    """Accuracy in percent per scene (rows) and setting (columns), the macro average, and the log loss:
    means over runs."""
    columns = {
        setting: _mean(_scene_scores(run, scenes) for run in runs) for setting, runs in settings.items()
    }
    return pd.DataFrame(columns).rename_axis("scene")


def device_table(settings: Mapping[str, Runs], known_devices: Sequence[str]) -> pd.DataFrame:
    """Macro-average accuracy in percent per device (rows) and setting (columns),
    and the means of known and unknown ones.

    All are means over runs.
    """
    columns = {
        setting: _mean(_device_scores(run, known_devices) for run in runs)
        for setting, runs in settings.items()
    }
    return pd.DataFrame(columns).rename_axis("device")


def accuracy_table(settings: Mapping[str, Runs]) -> pd.DataFrame:
    """Macro-average accuracy in percent per setting (rows):
    mean, standard deviation and t interval over its runs."""
    rows = {}
    for setting, runs in settings.items():
        over_runs = mean_interval([macro_accuracy(run) * 100 for run in runs])
        rows[setting] = (over_runs.mean, over_runs.std, over_runs.low, over_runs.high, over_runs.runs)
    columns = [MACRO_AVERAGE, _STD, _MEAN_LOW, _MEAN_HIGH, RUNS]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("setting")


def difference_table(settings: Mapping[str, Runs], *, draws: int = DRAWS) -> pd.DataFrame:
    """Differences of macro-average accuracy in points, a row per pair of settings,
    each with the one before it first.

    95 % intervals over locations and over runs; `stands` is 'yes' where no interval holds zero, else 'no'.
    Every pair is judged alone: of many pairs without a difference, one in twenty stands by chance. Raises
    DataError where two settings have unequal numbers of runs or other clips.
    """
    rows = {}
    for first, second in _pairs(list(settings)):
        try:
            difference = paired_bootstrap(settings[first], settings[second], draws=draws)
        except DataError as error:
            raise DataError(
                f"'{first}' (first) and '{second}' (second) can't be compared: {error}"
            ) from error
        rows[f"{second} - {first}"] = _difference_row(difference)
    columns = [DIFFERENCE, LOW, HIGH, RUNS_LOW, RUNS_HIGH, STANDS]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("settings")


def as_text(table: pd.DataFrame) -> str:
    """For the terminal: one decimal, two for small figures, and '-' where there is none."""
    return pd.DataFrame(as_rows(table), table.index, table.columns).to_string()


def as_markdown(table: pd.DataFrame) -> str:
    """For the page of a run."""
    header = [str(table.index.name or ""), *map(str, table.columns)]
    rows = [[str(name), *row] for name, row in zip(table.index, as_rows(table), strict=True)]
    first, *others = ["| " + " | ".join(map(in_markdown, row)) + " |" for row in (header, *rows)]
    return "\n".join([first, "|---" + "|---:" * len(table.columns) + "|", *others])


def as_rows(table: pd.DataFrame) -> list[list[str]]:
    """The cells of `as_text`, row by row."""
    return [
        [
            _text(value, digits=1 + bool(_TWO_DIGITS & {row, column}))
            for column, value in zip(table.columns, values, strict=True)
        ]
        for row, values in zip(table.index, table.astype(object).to_numpy(), strict=True)
    ]


def _scene_scores(run: pd.DataFrame, scenes: Sequence[str]) -> pd.Series:
    scores = accuracy_per_scene(run).reindex(list(scenes)) * 100
    scores[MACRO_AVERAGE] = macro_accuracy(run) * 100
    scores[LOG_LOSS] = log_loss(run, scenes)
    return scores


def _device_scores(run: pd.DataFrame, known_devices: Sequence[str]) -> pd.Series:
    scores = macro_accuracy_per_device(run) * 100
    known = scores.index.isin(list(known_devices))
    means = {
        SEEN: scores[known].mean(),
        UNSEEN: scores[~known].mean(),
        MACRO_AVERAGE: macro_accuracy(run) * 100,
    }
    return pd.concat([scores, pd.Series(means).dropna()])


def _mean(runs: Iterable[pd.Series]) -> pd.Series:
    return pd.concat(list(runs), axis=1).mean(axis=1)


def _pairs(names: list[str]) -> list[tuple[str, str]]:
    """Each name with the next one, then all other pairs."""
    following = list(pairwise(names))
    return following + [pair for pair in combinations(names, 2) if pair not in following]


def _difference_row(difference: Difference) -> tuple[float | str, ...]:
    fractions = (difference.mean, difference.low, difference.high, difference.runs_low, difference.runs_high)
    return (*(fraction * 100 for fraction in fractions), "yes" if difference.stands else "no")


def _text(value: object, *, digits: int) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-" if pd.isna(value) else f"{value:z.{digits}f}"
