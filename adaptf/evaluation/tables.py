"""The report's two tables: scenes by setting and devices by setting."""

from collections.abc import Mapping, Sequence

import pandas as pd

from adaptf.evaluation.scores import accuracy_per_scene, log_loss, macro_accuracy, macro_accuracy_per_device

MEAN, LOG_LOSS = "macro average", "log loss"
SEEN, UNSEEN = "known devices", "unknown devices"


def scene_table(settings: Mapping[str, pd.DataFrame], scenes: Sequence[str]) -> pd.DataFrame:
    """Accuracy in percent per scene (rows) and setting (columns), the macro average, and the log loss."""
    columns = {}
    for setting, predictions in settings.items():
        scores = accuracy_per_scene(predictions).reindex(list(scenes)) * 100
        scores[MEAN] = macro_accuracy(predictions) * 100
        scores[LOG_LOSS] = log_loss(predictions, scenes)
        columns[setting] = scores
    return pd.DataFrame(columns).rename_axis("scene")


def device_table(settings: Mapping[str, pd.DataFrame], known_devices: Sequence[str]) -> pd.DataFrame:
    """Macro-average accuracy in percent per device (rows) and setting (columns), and the means of known and unknown ones."""
    columns = {}
    for setting, predictions in settings.items():
        scores = macro_accuracy_per_device(predictions) * 100
        known = scores.index.isin(list(known_devices))
        means = {SEEN: scores[known].mean(), UNSEEN: scores[~known].mean(), MEAN: macro_accuracy(predictions) * 100}
        columns[setting] = pd.concat([scores, pd.Series(means).dropna()])
    return pd.DataFrame(columns).rename_axis("device")


def as_text(table: pd.DataFrame) -> str:
    """For the terminal: one decimal, two for the log loss."""
    return table.apply(_formatted, axis=1).to_string()


def as_markdown(table: pd.DataFrame) -> str:
    """For the page of a run."""
    table = table.apply(_formatted, axis=1)
    header = [str(table.index.name or ""), *map(str, table.columns)]
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * len(table.columns) + "|"]
    lines += ["| " + " | ".join([str(name), *row]) + " |" for name, row in zip(table.index, table.to_numpy(), strict=True)]
    return "\n".join(lines)


def _formatted(row: pd.Series) -> pd.Series:
    def text(value: object) -> str:
        if isinstance(value, float):
            return "-" if pd.isna(value) else f"{value:.2f}" if row.name == LOG_LOSS else f"{value:.1f}"
        return str(value)

    return row.astype(object).map(text)
