"""What the registry's page says of a version: scores, budget, and the runs that it came from."""

from collections.abc import Mapping, Sequence

import mlflow
import pandas as pd
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from adaptf.compression.complexity import MAX_BYTES, MAX_MACS
from adaptf.data.clips import UNKNOWN
from adaptf.evaluation.scores import accuracy_per_scene
from adaptf.evaluation.tables import MACRO_AVERAGE, as_markdown
from adaptf.names import in_markdown
from adaptf.pipeline.artifacts import INT8_ACCURACY
from adaptf.pipeline.lineage import FILE_STAGE, Node
from adaptf.pipeline.refit import what_clips_judge

NOT_SCORED = "It was not scored on test clips: no finished run of `evaluate` did so before it was registered."
_COSTS = {
    "parameters": ("parameters of the float network", ""),
    "macs": ("multiply-accumulates for one clip", f"{MAX_MACS:,}"),
    "model_bytes": ("bytes: INT8 weights, FP16 biases (held to the limit)", f"{MAX_BYTES:,}"),
    "served macs": ("multiply-accumulates, counted in the file that answers", f"{MAX_MACS:,}"),
    "served bytes": ("bytes of weights and biases, counted in the file that answers", f"{MAX_BYTES:,}"),
    "bands": ("mel bands", ""),
    "frames": ("frames of one clip", ""),
}
"""Figures of the quantization's report: what they are, and their limit."""


def device_page(
    device: str, report: pd.DataFrame, predictions: pd.DataFrame | None, evaluated: str, came: list[Node]
) -> str:
    """Markdown of a device's model.

    `report` is the table of the quantization, with a row per device; `predictions` are those of the test
    clips by the INT8 models of all devices, each clip by the model of its device,
    and `evaluated` is the run that made them.
    """
    row = pd.Series(report.loc[device])
    others = " and of every device without a model of its own" if device == UNKNOWN else ""
    clips = None if predictions is None else _answered_clips(predictions, device, list(report.index))
    columns = ("scene", "device") if others else ("scene",)
    return "\n\n".join(
        [
            f"INT8 model of device **{in_markdown(device)}**{others}. It answers for every clip that it is "
            f"given; the router sends it those of its device{'s' if others else ''}.",
            *_test_scores(dict.fromkeys(columns, clips), evaluated),
            f"Validation: {row[INT8_ACCURACY]:.1f} % macro-average accuracy as INT8, "
            f"{row['float accuracy']:.1f} % before, on "
            f"{in_markdown(row['judged on'])}{_learnt_remark(came)}.",
            budget(row),
            _runs_list(came),
        ]
    )


def _learnt_remark(came: Sequence[Node]) -> str:
    """Of the validation clips; empty where none of the runs learnt from them."""
    refits = [node.name for node in came if node.refit]
    return f", {what_clips_judge(refits)}" if refits else ""


def router_page(
    held: Mapping[str, str], predictions: pd.DataFrame | None, evaluated: str, came: list[Node]
) -> str:
    """Markdown of the router: `held` is the version by device; the rest as for a device's model."""
    lines = "\n".join(f"| {in_markdown(device)} | {version} |" for device, version in held.items())
    return "\n\n".join(
        [
            f"Sends each clip to the INT8 model of its recording device, and every other clip to that of "
            f"**{UNKNOWN}**.",
            f"| device | version |\n|---|---|\n{lines}",
            *_test_scores({"scene": predictions, "device": predictions}, evaluated),
            f"The budget of each device's model is on the page of its version. Limits: {MAX_MACS:,} "
            f"multiply-accumulates, {MAX_BYTES:,} bytes.",
            _runs_list(came),
        ]
    )


def _answered_clips(predictions: pd.DataFrame, device: str, devices: Sequence[str]) -> pd.DataFrame:
    """The test clips that a device's model answered:
    those of its device, `unknown` those of all devices without a model."""
    own = predictions["device"] == device
    return predictions[own | ~predictions["device"].isin(devices)] if device == UNKNOWN else predictions[own]


def _test_scores(clips_by_column: Mapping[str, pd.DataFrame | None], evaluated: str) -> list[str]:
    """A table per column of the predictions by which the clips are told apart,
    under what has to be known of them."""
    if any(clips is None for clips in clips_by_column.values()):
        return [NOT_SCORED]
    note = mlflow.get_run(evaluated).data.tags.get(MLFLOW_RUN_NOTE, "").partition("\n\n")[0]
    tables = [
        _accuracy_by(column, clips)
        for column, clips in clips_by_column.items()
        if clips is not None and len(clips)
    ]
    return [f"Test clips: {note}", *(tables or ["None of the test clips is for this model."])]


def _accuracy_by(column: str, clips: pd.DataFrame) -> str:
    """Markdown: macro-average accuracy in percent per scene or device, and of all clips."""
    groups = {str(name): rows for name, rows in clips.groupby(column)}
    rows = [(100 * float(accuracy_per_scene(some).mean()), len(some)) for some in groups.values()]
    rows.append((100 * float(accuracy_per_scene(clips).mean()), len(clips)))
    table = pd.DataFrame(rows, index=[*groups, MACRO_AVERAGE], columns=["accuracy in percent", "clips"])
    return as_markdown(table.rename_axis(column))


def budget(row: pd.Series) -> str:
    """Markdown: what the network costs, and the limits that it is held to."""
    lines = [
        f"| {what} | {int(row[name]):,} | {limit} |" for name, (what, limit) in _COSTS.items() if name in row
    ]
    return "\n".join(["| budget | this model | limit |", "|---|---:|---:|", *lines])


def _runs_list(came: Sequence[Node]) -> str:
    """Markdown: a link to each run, as the pages of MLflow's UI find them, files by name,
    code and data of the first run."""
    lines = [f"- {_link_to(node)}" for node in came if node.name]
    made = [
        f"Data digest: {learnt_digest(came) or 'not known'}.",
        f"Git commit: {commit(came) or 'not known'}.",
    ]
    return "\n".join(["Runs that it came from, and that scored it:", "", *lines, "", *made])


def _link_to(node: Node) -> str:
    """Markdown: to a run; of a file its name."""
    return (
        f"[{node.name}](#/experiments/{node.experiment_id}/runs/{node.run_id})"
        if node.stage != FILE_STAGE
        else node.name
    )


def files_behind(came: Sequence[Node]) -> str:
    """The checkpoint files of the user's that a version came from, as text;
    empty where runs made all of it."""
    return "; ".join(node.name for node in came if node.stage == FILE_STAGE)


def learnt_digest(came: Sequence[Node]) -> str:
    """Of the clips that the model learnt from: that of the newest run which tells it."""
    return next((node.data_digest for node in came if node.data_digest), "")


def commit(came: Sequence[Node]) -> str:
    """Of the newest run which tells it."""
    return next((node.commit for node in came if node.commit), "")
