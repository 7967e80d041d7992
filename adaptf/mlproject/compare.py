"""Stage `compare`: two models or more on the same clips, where they differ, which differences stand,
and which clips change."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from adaptf.data.clips import TEST, UNKNOWN
from adaptf.errors import UserError
from adaptf.evaluation.changes import changed_clips, group_table
from adaptf.evaluation.scores import Runs, macro_accuracy, places_of
from adaptf.evaluation.tables import accuracy_table, difference_table
from adaptf.pipeline.artifacts import DATA_KIND, SCENES_KIND, TABLES, TABLES_FOLDER
from adaptf.pipeline.compared import Compared, all_compared, loaded
from adaptf.pipeline.config import aside, file_or_name, upstream
from adaptf.pipeline.dataset import PreparedData, load_prepared
from adaptf.pipeline.prediction_files import write_predictions
from adaptf.pipeline.predictions import predict_by_device
from adaptf.pipeline.refit import refits_of
from adaptf.pipeline.run_names import short
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.validation import SYNTHESISED
from adaptf.reports.compare_report import PAGE, Pair, page_of, pairs_note, text_of
from adaptf.reports.difference_figures import accuracy_figure, change_figure
from adaptf.reports.evaluation_report import warnings_of
from adaptf.reports.page import write_report
from adaptf.tracking import runs
from adaptf.tracking.checkpoint_files import digests_of, file_tags
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import NONE
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import UPSTREAM


@dataclass(frozen=True)
class CompareConfig:
    """Holds models against the first of them, on the same clips."""

    runs: str = file_or_name(NONE)
    """Two and more, separated by commas: runs of train, teacher, distill, finetune or quantize, also over
    seeds, also trials of a sweep; registered versions as in models:/adaptf-s1/3 or
    models:/adaptf-s1@production; checkpoint files, or folders of <device>.ckpt."""
    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    split: Literal["test", "validation"] = "test"
    """The clips on which models are compared: test clips, or validation clips, by which checkpoints were
    chosen."""
    accelerator: str = aside("auto")
    """Kind of processor that runs float models: cpu, gpu, ... or auto. INT8 models run on the CPU."""


def compare(config: CompareConfig, run: StageRun) -> Result:
    """A page, tables as text, CSV and Markdown, pictures, all clips that change,
    and every model's predictions."""
    found = all_compared(config.runs.split(","))
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    rows = common_clips(found, data, config.split)
    models = {one.label: loaded(one, run, data, config.accelerator) for one in found}
    settings = {
        label: [predict_by_device(each, data, rows, label) for each in several]
        for label, several in models.items()
    }
    tables = {"accuracies": accuracy_table(settings), "differences": difference_table(settings)}
    pairs = pairs_of(settings, data, run.folder)
    write_compared(settings, tables, pairs, run.folder / TABLES_FOLDER)
    picture = accuracy_figure(settings, tables["differences"], run.folder / "accuracy.png")
    remarks = [*learnt_from_them(found, config.split), *remarks_on(data, rows, config.split)]
    text = text_of(remarks, tables, pairs)
    (run.folder / TABLES).write_text(text)
    run_ids = ",".join(run_id for one in found for run_id in one.run_ids)
    return Result(
        metrics=comparison_metrics(settings, pairs, config.split),
        files={
            PAGE: write_report(page_of(list(settings), tables, pairs, picture, remarks), run.folder / PAGE),
            TABLES: run.folder / TABLES,
            TABLES_FOLDER: run.folder / TABLES_FOLDER,
            **{one.name: one for one in (picture, *(pair.picture for pair in pairs))},
        },
        tags={
            "adaptf.compared": ", ".join(settings),
            **({f"{UPSTREAM}runs": run_ids} if run_ids else {}),
            **_tags_of_files(found),
        },
        note=pairs_note(remarks, tables, pairs),
        summary=text,
    )


def check(config: CompareConfig) -> None:
    """Raises UserError for what can't be compared."""
    all_compared(config.runs.split(","))


def names(config: CompareConfig) -> list[str]:
    """Of what is compared; more than two are counted."""
    found = [short(value) for value in config.runs.split(",")]
    return [", ".join(found) if len(found) <= 2 else f"{len(found)} models"]


def checkpoints_digest(config: CompareConfig) -> str:
    """Digest of the checkpoint files."""
    values = config.runs.split(",")
    return runs.digest(
        *(json.dumps(digests_of(value)) for value in values if not value.startswith("models:/"))
    )


def _tags_of_files(found: Sequence[Compared]) -> dict[str, str]:
    """Tags of the checkpoint files among them, by their places."""
    values = {f"runs.{place}": value for place, one in enumerate(found, 1) for value in one.values}
    return {tag: label for field, value in values.items() for tag, label in file_tags(field, value).items()}


def common_clips(found: Sequence[Compared], data: PreparedData, split: str) -> pd.DataFrame:
    """The rows of the split's clips for which all of them answer. Raises UserError where there is none."""
    rows = data.table[data.table["split"] == split]
    for one in found:
        rows = rows[one.answers_for(rows["device"])]
        if rows.empty:
            of_device = (
                f"of device {one.device}"
                if one.device != UNKNOWN
                else f"of devices other than {', '.join(one.others)}"
            )
            raise UserError(f"{one.label} answers for clips {of_device}: there is no {split} clip of those")
    return rows


def pairs_of(settings: Mapping[str, Runs], data: PreparedData, folder: Path) -> list[Pair]:
    """The first setting with each of the others."""
    (name, first), *others = settings.items()
    pairs = []
    for place, (other, second) in enumerate(others, 2):
        names = (name, other)
        clips = changed_clips(first, second, names, data.classes)
        scenes, devices = (group_table(first, second, names, clips, by=by) for by in ("scene", "device"))
        pair = Pair(place, names, scenes, devices, clips, folder)
        change_figure([scenes, devices], names, pair.picture)
        pairs.append(pair)
    return pairs


def write_compared(
    settings: Mapping[str, Runs], tables: Mapping[str, pd.DataFrame], pairs: Sequence[Pair], folder: Path
) -> None:
    """CSV files of all tables, and predictions, which are called after the model's place."""
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv")
    for pair in pairs:
        for name, table in pair.tables.items():
            table.to_csv(folder / f"{name}{pair.suffix}.csv")
    write_predictions(
        {str(place): predictions for place, predictions in enumerate(settings.values(), 1)}, folder
    )


def remarks_on(data: PreparedData, rows: pd.DataFrame, split: str) -> list[str]:
    """What has to be known of the clips, and which they are."""
    devices = sorted(rows["device"].unique())
    plural = "s" * (len(devices) > 1)
    clips = (
        f"{len(rows)} {split} clips of {places_of(rows).nunique()} places and device{plural} "
        f"{', '.join(devices)}."
    )
    chosen = [SYNTHESISED] * data.synthesised + [
        "Checkpoints were chosen by these clips, which flatters all models."
    ]
    return [*(warnings_of(data) if split == TEST else chosen), clips]


def learnt_from_them(found: Sequence[Compared], split: str) -> list[str]:
    """Which of them have learnt from the clips; from test clips none does."""
    if split == TEST:
        return []
    refits = {one.label: [name for run_id in one.run_ids for name in refits_of(run_id)] for one in found}
    return [
        f"{label} has **learnt from these clips** (refit of {', '.join(dict.fromkeys(names))}): its figures "
        "are too good."
        for label, names in refits.items()
        if names
    ]


def comparison_metrics(settings: Mapping[str, Runs], pairs: Sequence[Pair], split: str) -> dict[str, float]:
    """By the models' places: accuracy;
    of all but the first, the difference to it and the predictions that change."""
    means = [sum(map(macro_accuracy, predictions)) / len(predictions) for predictions in settings.values()]
    metrics = {f"{split}/accuracy/{place}": mean for place, mean in enumerate(means, 1)}
    for place, (mean, pair) in enumerate(zip(means[1:], pairs, strict=True), 2):
        metrics |= {f"difference/{place}": mean - means[0], f"changed/{place}": float(len(pair.clips))}
    return metrics


COMPARE = Stage(
    "compare", run=compare, config=CompareConfig, check=check, reads=checkpoints_digest, words=names
)


if __name__ == "__main__":
    COMPARE.main()
