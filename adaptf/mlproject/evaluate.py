"""Stage `evaluate`: the class-wise and device-wise tables on the test clips, and which differences between models stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from adaptf.data.clips import TEST, devices_of
from adaptf.errors import UserError
from adaptf.evaluation.figures import accuracy_figure, confusion_figure, device_figure
from adaptf.evaluation.scores import TEXT_COLUMNS, Runs, confusion, log_loss, macro_accuracy
from adaptf.evaluation.tables import accuracy_table, as_markdown, as_text, device_table, difference_table, scene_table
from adaptf.mlproject.config import upstream, upstream_several
from adaptf.mlproject.dataset import DATA_KIND, SCENES_KIND, PreparedData, load_prepared
from adaptf.mlproject.distill import teacher_name
from adaptf.mlproject.predictions import predict_test_clips
from adaptf.mlproject.stage import run_stage
from adaptf.tracking import runs
from adaptf.tracking.runs import NONE, Result, StageRun

TRAINED, DISTILLED, FINETUNED, QUANTIZED = "trained", "distilled", "per device", "per device INT8"
SETTINGS = {"train_run": TRAINED, "distill_run": DISTILLED, "finetune_run": FINETUNED, "quantize_run": QUANTIZED}
"""Field of the configuration -> what the tables call it."""
TABLES = "tables.txt"
TABLES_FOLDER = "tables"


@dataclass(frozen=True)
class EvaluateConfig:
    """Scores models on the test clips. Each setting can be left out with `none`, and can be several runs with other seeds."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    train_run: str = upstream_several("train")
    """One model, from the labels alone. Several runs, separated by commas, or a run over seeds, are shown by their mean."""
    distill_run: str = upstream_several("distill")
    """One model, distilled: without device fine-tuning."""
    finetune_run: str = upstream_several("finetune")
    """A model per device: with device fine-tuning."""
    quantize_run: str = upstream_several("quantize")
    """The same as INT8."""
    compare: tuple[str, ...] = ()
    """Instead of the settings above: two runs and more of train, distill, finetune or quantize, or over seeds, as in ID,ID."""
    draws: int = 10_000
    """Of the bootstrap over locations."""
    accelerator: str = "auto"
    """Where float models run: cpu, gpu, ... or auto. INT8 models run on the CPU."""

    def __post_init__(self) -> None:
        for field in SETTINGS if self.compare else ():
            object.__setattr__(self, field, NONE)


def evaluate(config: EvaluateConfig, run: StageRun) -> Result:
    """Tables as text, CSV and Markdown, confusion matrices, and every setting's predictions."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    settings = {
        setting: [predict_test_clips(run, run_id, data, config.accelerator, name=setting) for run_id in run_ids]
        for setting, run_ids in run_ids_of(config).items()
    }
    result = report(settings, data, run, remark=origin_of_teachers(config), draws=config.draws)
    return replace(result, tags={f"{runs.UPSTREAM}compare": ",".join(config.compare)} if config.compare else {})


def run_ids_of(config: EvaluateConfig) -> dict[str, list[str]]:
    """The runs (or the checkpoint file) of each setting."""
    if config.compare:
        return compared(config.compare)
    values = {setting: getattr(config, field) for field, setting in SETTINGS.items()}
    wanted = {setting: runs.split_ids(value) for setting, value in values.items() if value != NONE}
    if not wanted:
        raise UserError("there is nothing to evaluate: all of train_run, distill_run, finetune_run and quantize_run are 'none'")
    return wanted


def compared(values: Sequence[str]) -> dict[str, list[str]]:
    """The runs of each of the compared runs, one or those of all seeds, or a checkpoint file."""
    if len(set(values)) < max(2, len(values)):
        raise UserError(f"compare is {', '.join(values)}: two different runs and more are needed")
    found = {
        label_of(value): [value] if Path(value).is_file() else runs.with_all_seeds(runs.finished_run(value)) for value in values
    }
    if len({len(run_ids) for run_ids in found.values()}) > 1:
        numbers = ", ".join(f"{label} has {len(run_ids)}" for label, run_ids in found.items())
        raise UserError(f"compare: runs over seeds can be paired with as many others only: {numbers}")
    return found


def label_of(value: str) -> str:
    """What a compared run is called in the tables; it becomes a file name."""
    label = Path(value).stem if Path(value).is_file() else f"{runs.name_of(value)} {value[:6]}"
    return label.replace("/", " ")


def report(settings: Mapping[str, Runs], data: PreparedData, run: StageRun, *, remark: str, draws: int) -> Result:
    """Everything that is told of the settings' predictions of the test clips, one table per run of each."""
    differences = differences_of(settings, draws)
    tables = {
        "accuracies": accuracy_table(settings),
        "differences": differences,
        "scenes": scene_table(settings, data.classes),
        "devices": device_table(settings, devices_of(data.table)),
    }
    tables = {name: table for name, table in tables.items() if len(table)}
    folder = run.folder / TABLES_FOLDER
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv")
    for setting, predictions in settings.items():
        for place, one in enumerate(predictions):
            one.to_csv(folder / predictions_name(setting, place), index=False, float_format="%.9g")
    note = f"{remark_on(data)} {remark}".strip()
    text = "\n\n".join([note, *(as_text(table) for table in tables.values())])
    (run.folder / TABLES).write_text(text)
    shown = {setting: confusion(predictions, data.classes) for setting, predictions in list(settings.items())[-2:]}
    return Result(
        metrics=metrics_of(settings, data),
        files={
            TABLES: run.folder / TABLES,
            TABLES_FOLDER: folder,
            "confusion.png": confusion_figure(shown, run.folder / "confusion.png"),
            "devices.png": device_figure(tables["devices"], run.folder / "devices.png"),
            "accuracy.png": accuracy_figure(settings, differences, run.folder / "accuracy.png"),
        },
        note="\n\n".join([note, *(as_markdown(table) for table in tables.values())]),
        summary=text,
    )


def predictions_name(setting: str, place: int) -> str:
    """File of one run's predictions."""
    return f"predictions {setting}{f' {place}' if place else ''}.csv"


def read_predictions(run: StageRun, evaluated: str, setting: str, place: int = 0) -> pd.DataFrame:
    """Predictions of a setting's only run, or of that at a place among several, from another run of `evaluate`."""
    return read_prediction_table(run.download(evaluated, f"{TABLES_FOLDER}/{predictions_name(setting, place)}"))


def read_prediction_table(path: Path) -> pd.DataFrame:
    """A file of predictions; names such as 'nan' stay text."""
    return pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False)


def differences_of(settings: Mapping[str, Runs], draws: int) -> pd.DataFrame:
    """Between settings of as many runs each: only these can be paired."""
    numbers = sorted({len(predictions) for predictions in settings.values()})
    groups = [{name: one for name, one in settings.items() if len(one) == number} for number in numbers]
    return pd.concat([difference_table(group, draws=draws) for group in groups])


def remark_on(data: PreparedData) -> str:
    """What has to be known of the data to read its figures."""
    test = data.table[data.table["split"] == TEST]
    sounds = "Synthesised sounds: these figures say nothing about real scenes. " if data.synthesised else ""
    shared = set(test["location"]) & set(data.table[data.table["split"] != TEST]["location"])
    places = test["location"].isin(shared).mean()
    known = (
        f"**{places:.0%} of them are of places that training has heard: the figures show what can be learnt, not how well it "
        "generalises.** "
        if shared
        else ""
    )
    return f"{sounds}{len(test)} test clips of {test['location'].nunique()} places. {known}".strip()


def metrics_of(settings: Mapping[str, Runs], data: PreparedData) -> dict[str, float]:
    """Macro-average accuracy and log loss per setting, the means over its runs."""
    metrics = {}
    for setting, predictions in settings.items():
        metrics[f"test/accuracy/{setting}"] = sum(macro_accuracy(one) for one in predictions) / len(predictions)
        metrics[f"test/log_loss/{setting}"] = sum(log_loss(one, data.classes) for one in predictions) / len(predictions)
    return metrics


def origin_of_teachers(config: EvaluateConfig) -> str:
    """Which teachers stand behind the distilled models; a small one is named, because it is no BEATs."""
    if config.distill_run == NONE or Path(config.distill_run).is_file():
        return ""
    first = config.distill_run.split(",")[0]
    run_ids = runs.upstream_of(first, "distill", "teacher_runs").split(",")
    return f"Teachers: {', '.join(teacher_name(run_id) for run_id in run_ids)}."


if __name__ == "__main__":
    run_stage(evaluate, EvaluateConfig)
