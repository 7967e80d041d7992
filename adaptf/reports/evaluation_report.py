"""What `evaluate` tells of settings:
tables, pictures, the hardest clips, and one page that holds all of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import mlflow
import pandas as pd
from torch import Tensor

from adaptf.data.clips import TEST, devices_of
from adaptf.data.errors import DataError
from adaptf.errors import without_passwords
from adaptf.evaluation.scores import Runs, absent_scenes, confusion, places_of, say_absent
from adaptf.evaluation.tables import MACRO_AVERAGE, as_markdown, as_text
from adaptf.pipeline.artifacts import TABLES, TABLES_FOLDER, quantization
from adaptf.pipeline.dataset import PreparedData
from adaptf.pipeline.validation import SYNTHESISED
from adaptf.reports.calibration_figures import rejection_figure, reliability_figure
from adaptf.reports.difference_figures import accuracy_figure
from adaptf.reports.evaluation_tables import confusions_by_device, metrics_of, tables_of, write_tables
from adaptf.reports.figures import confusion_figure, device_confusions_figure, device_figure
from adaptf.reports.hardest_clips import hardest_clips, write_pictures, write_sounds
from adaptf.reports.lineage_section import Origins, lineage_section, origins_of
from adaptf.reports.page import Report, Section, write_report
from adaptf.reports.settings_sections import (
    calibration_section,
    complexity_section,
    confusions_section,
    difference_sentences,
    differences_section,
    figures_section,
    hardest_section,
    hardest_table,
)
from adaptf.tracking import runs
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun

_PAGE, _HARDEST_FOLDER = "report.html", "hardest"
_TITLE = "Acoustic scenes: evaluation on the test clips"


def report(
    settings: Mapping[str, Runs],
    data: PreparedData,
    run: StageRun,
    *,
    remark: str,
    run_ids: Mapping[str, Sequence[str]] | None = None,
    meanings: Mapping[str, str] | None = None,
) -> Result:
    """Everything that is told of the settings' predictions of the test clips, one table per run of each.

    `run_ids` are the runs (or checkpoint files) behind each setting, of which the page tells complexity and
    lineage; `meanings` say in words what a setting is.
    """
    folder = run.folder
    tables = tables_of(settings, data)
    write_tables(settings, data, tables, folder / TABLES_FOLDER)
    pictures = _write_all_pictures(settings, data, tables, folder)
    origins = origins_of(run_ids or {})
    devices = len(devices_of(data.table, TEST))
    sections = (
        figures_section(tables["scenes"], tables["devices"], pictures["devices.png"]),
        differences_section(tables["accuracies"], tables["differences"], pictures["accuracy.png"]),
        confusions_section(
            pictures["confusion.png"], pictures["confusion_devices.png"], last(settings), devices
        ),
        calibration_section(tables["calibration"], pictures["reliability.png"], pictures["rejection.png"]),
        _hardest(settings, data, folder / _HARDEST_FOLDER),
        complexity_section(_quantization_of(run, origins)),
        *([lineage_section(origins, without_passwords(mlflow.get_tracking_uri()))] if origins.roots else []),
    )
    page = Report(
        title=_TITLE,
        lead=_lead_of(tables),
        warnings=tuple(warnings_of(data)),
        facts=_facts_of(settings, data, origins, meanings or {}),
        sections=sections,
    )
    told = {
        name: tables[name] for name in ("scenes", "devices", "accuracies", "differences") if len(tables[name])
    }
    absent = say_absent(absent_scenes(data.table[data.table["split"] == TEST], data.classes))
    clips = " ".join(filter(None, [f"{_clip_counts(data)}.", absent, remark]))
    text = "\n\n".join([" ".join([*page.warnings, clips]), *map(as_text, told.values())])
    (folder / TABLES).write_text(text)
    note = " ".join([*(f"**{warning}**" for warning in page.warnings), _link_to_page(run), clips])
    return Result(
        metrics=metrics_of(settings, data, tables["calibration"]),
        files={
            _PAGE: write_report(page, folder / _PAGE),
            TABLES: folder / TABLES,
            TABLES_FOLDER: folder / TABLES_FOLDER,
            _HARDEST_FOLDER: folder / _HARDEST_FOLDER,
            **pictures,
        },
        note="\n\n".join([note, *map(as_markdown, told.values()), *_links_to_runs(origins)]),
        summary=text,
    )


def _link_to_page(run: StageRun) -> str:
    """Markdown that MLflow's page of the run shows in its first lines: what is below is folded away."""
    return (
        "[The report, with pictures and "
        f"sounds](#/experiments/{runs.experiment_id()}/runs/{run.run_id}/artifacts/{_PAGE})."
    )


def _links_to_runs(origins: Origins) -> list[str]:
    """A line of Markdown with the evaluated runs, or nothing."""
    there = [node for node, _ in origins.roots if node.experiment_id]
    links = [f"[{node.name}](#/experiments/{node.experiment_id}/runs/{node.run_id})" for node in there]
    return [f"Evaluated runs: {', '.join(links)}."] if links else []


def _write_all_pictures(
    settings: Mapping[str, Runs], data: PreparedData, tables: Mapping[str, pd.DataFrame], folder: Path
) -> dict[str, Path]:
    """By the names of their PNG files."""
    confusions = {
        setting: confusion(predictions, data.classes) for setting, predictions in list(settings.items())[-2:]
    }
    by_device = confusions_by_device(settings[last(settings)], data)
    written = (
        confusion_figure(confusions, folder / "confusion.png"),
        device_confusions_figure(by_device, folder / "confusion_devices.png"),
        device_figure(tables["devices"], folder / "devices.png"),
        accuracy_figure(settings, tables["differences"], folder / "accuracy.png"),
        reliability_figure(tables["reliability"], folder / "reliability.png"),
        rejection_figure(tables["rejection"], folder / "rejection.png"),
    )
    return {path.name: path for path in written}


def last(settings: Mapping[str, Runs]) -> str:
    """The setting that the others lead to: of it single devices and clips are shown."""
    return list(settings)[-1]


def _hardest(settings: Mapping[str, Runs], data: PreparedData, folder: Path) -> Section:
    """The last setting's hardest clips, written as a table, pictures and sounds too."""
    setting = last(settings)
    clips = hardest_clips(settings[setting], data.classes)
    folder.mkdir(exist_ok=True)
    hardest_table(clips).to_csv(folder / "hardest.csv")
    waveforms = waveforms_of(clips, data) if len(clips) else None
    rate = data.waveforms.format.sample_rate
    return hardest_section(
        clips,
        data.classes,
        setting,
        cities=dict(zip(data.table["filename"], data.table["city"], strict=True)),
        pictures=[] if waveforms is None else write_pictures(waveforms, folder, sample_rate=rate),
        sounds=[] if waveforms is None else write_sounds(waveforms, folder, sample_rate=rate),
    )


def waveforms_of(clips: pd.DataFrame, data: PreparedData) -> Tensor | None:
    """(clips, samples) from the waveform cache; None where this machine does not have them."""
    keys = data.table.set_index("filename")["key"].loc[list(clips["filename"])]
    try:
        return data.waveforms.read(data.waveforms.rows_of(list(keys)))
    except (DataError, OSError):
        return None


def _quantization_of(run: StageRun, origins: Origins) -> pd.DataFrame | None:
    """What `quantize` found of each device's model, from the last of its runs among those evaluated."""
    quantized = [node.run_id for node, _ in origins.roots if node.stage == "quantize"]
    if not quantized:
        return None
    return quantization(run, quantized[-1])


def _lead_of(tables: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """The best setting, and what each step brought."""
    means = tables["accuracies"][MACRO_AVERAGE]
    best = f"{means.max():.1f} % of the test clips are recognised (macro average over the scenes)"
    of_several = (
        f", by '{means.idxmax()}', the best of {len(means)} settings"
        if len(means) > 1
        else f", by '{means.idxmax()}'"
    )
    return f"{best}{of_several}.", *difference_sentences(tables["differences"], list(means.index))


def warnings_of(data: PreparedData) -> list[str]:
    """What has to be known of the data before any figure is believed."""
    test = data.table[data.table["split"] == TEST]
    places = places_of(test)
    shared = set(places) & set(places_of(data.table[data.table["split"] != TEST]))
    heard = (
        f"{places.isin(shared).mean() * 100:.0f} % of the test clips are of places that training has heard: "
        f"the figures show what can be learnt, not how well it generalises."
    )
    return [SYNTHESISED] * data.synthesised + [heard] * bool(shared)


def _clip_counts(data: PreparedData) -> str:
    """How many test clips, of how many places."""
    test = data.table[data.table["split"] == TEST]
    return f"{len(test)} test clips of {places_of(test).nunique()} places"


def _facts_of(
    settings: Mapping[str, Runs], data: PreparedData, origins: Origins, meanings: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """What was judged, on what."""
    known = set(devices_of(data.table))
    devices = devices_of(data.table, TEST)
    heard, unheard = (
        [device for device in devices if (device in known) is wanted] for wanted in (True, False)
    )
    told = [f"known: {', '.join(heard)}"] * bool(heard) + [
        f"unknown to training: {', '.join(unheard)}"
    ] * bool(unheard)
    facts = [
        (setting, _setting_words(len(runs), meanings.get(setting, ""))) for setting, runs in settings.items()
    ]
    facts += [
        ("Clips", f"{_clip_counts(data)}, {'synthesised' if data.synthesised else 'recorded'}"),
        ("Scenes", f"{len(data.classes)}: {', '.join(data.classes)}"),
        ("Devices", f"{len(devices)}; {'; '.join(told)}"),
    ]
    facts += [("Teachers", ", ".join(origins.teachers))] if origins.teachers else []
    return (*facts, ("Digest of the data", data.digest))


def _setting_words(number: int, meaning: str) -> str:
    """What a setting is, and how many runs it has."""
    return "; ".join(
        filter(None, [meaning, f"{number} runs, shown by their mean" if number > 1 else "one run"])
    )
