"""The sections of a report on settings, from their tables of figures and their pictures."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pandas as pd

from adaptf.compression.complexity import MAX_BYTES, MAX_MACS
from adaptf.evaluation.calibration import ACCURACY, BINS, CALIBRATION_ERROR, CONFIDENCE
from adaptf.evaluation.tables import (
    DIFFERENCE,
    HIGH,
    LOG_LOSS,
    LOW,
    MACRO_AVERAGE,
    RUNS,
    RUNS_HIGH,
    RUNS_LOW,
    SEEN,
    STANDS,
    UNSEEN,
)
from adaptf.pipeline.artifacts import INT8_ACCURACY
from adaptf.reports.figures import DEVICES_SHOWN
from adaptf.reports.hardest_clips import PLAYED_SECONDS, PROBABILITY, RULE, TRUE_PROBABILITY
from adaptf.reports.page import Cell, Picture, Section, ShownClip, ShownClips, Table, TableRow, table_of

_SUMMARIES = {MACRO_AVERAGE, SEEN}
_PROBABILITIES_SHOWN = 3
NO_SOUND = (
    "The audio of these clips is not on the machine that made this page: their pictures and sounds are left "
    "out."
)


def figures_section(scenes: pd.DataFrame, devices: pd.DataFrame, picture: Path) -> Section:
    """The two tables: accuracy by scene and by device (rows) and setting (columns)."""
    star = " The star marks the best of a row." if len(scenes.columns) > 1 else ""
    by_scene = table_of(
        scenes,
        "Accuracy in percent by scene. The macro average is the mean over the scenes; of the log loss, less "
        "is better." + star,
        mark_best=True,
        lowest_is_best={LOG_LOSS},
        summaries=_SUMMARIES,
    )
    by_device = table_of(
        devices,
        "Macro-average accuracy in percent by recording device. Training has heard the known devices and "
        "none of the others." + star,
        mark_best=True,
        summaries=_SUMMARIES if SEEN in devices.index else {UNSEEN, MACRO_AVERAGE},
    )
    shown = Picture(
        picture,
        "The same by device: a group of bars per device or mean, a bar per setting in the order of the "
        "table's columns.",
        "Bars of macro-average accuracy by device and setting; the figures stand in the table above.",
    )
    return Section("Accuracy by scene and by device", "Accuracy", blocks=(by_scene, by_device, shown))


def differences_section(accuracies: pd.DataFrame, differences: pd.DataFrame, picture: Path) -> Section:
    """Macro averages over the runs, and which differences stand."""
    several = bool((accuracies[RUNS] > 1).any())
    caption = "Macro-average accuracy in percent over runs with other seeds, with Student's t interval."
    means = (table_of(accuracies, caption),) if several else ()
    if differences.empty:
        shown = Picture(picture, "Macro-average accuracy.", "Macro-average accuracy of the setting.")
        return Section(
            "Differences",
            "Differences",
            ("There is one setting: nothing to compare it with.",),
            (*means, shown),
        )
    seeds, dots = (
        (", and a second one over seeds", " (grey dots: runs, line: interval of their mean)")
        if several
        else ("", "")
    )
    explained = (
        "A difference is in points of macro-average accuracy. Its 95 % interval is from a paired bootstrap "
        f"over the places that clips were recorded at{seeds}. A difference stands where zero lies outside. "
        f"Each pair is judged alone: of twenty pairs that are alike, one stands by chance."
    )
    shown = Picture(
        picture,
        f"Left: macro averages{dots}. Right: differences with their intervals over places; blue stands, grey "
        "may be chance.",
        "Macro-average accuracy of each setting, and the differences that stand in the table below.",
    )
    blocks = (*means, shown, _difference_words_table(differences))
    return Section("Which differences stand", "Differences", (explained,), blocks)


def _difference_words_table(differences: pd.DataFrame) -> Table:
    """The table of differences with intervals in one cell, and with what each means."""
    intervals = {"95 % over places": (LOW, HIGH), "95 % over seeds": (RUNS_LOW, RUNS_HIGH)}
    shown = {name: ends for name, ends in intervals.items() if differences[list(ends)].notna().any(axis=None)}
    rows = tuple(
        TableRow(
            str(name),
            (
                Cell(f"{found[DIFFERENCE]:+z.2f}"),
                *(Cell(interval(found[low], found[high])) for low, high in shown.values()),
                Cell(in_words(found), words=True),
            ),
        )
        for name, found in differences.iterrows()
    )
    return Table(
        "Differences in points, each setting with the one before it first.",
        ("", "points", *shown, "in words"),
        rows,
    )


def interval(low: float, high: float) -> str:
    """As text; '-' where there is none."""
    return "-" if pd.isna(low) else f"{low:+z.2f} to {high:+z.2f}"


def in_words(difference: pd.Series) -> str:
    """What a row of the table of differences means."""
    low, high = difference[LOW], difference[HIGH]
    if pd.isna(low):
        return "not known: every scene has a single place"
    if difference[STANDS] == "yes":
        smallest, largest = sorted((abs(low), abs(high)))
        return (
            f"stands: {smallest:.1f} to {largest:.1f} points "
            f"{'better' if difference[DIFFERENCE] > 0 else 'worse'}"
        )
    if low > 0 or high < 0:
        return "may be chance: other seeds could turn it"
    return f"may be chance: {-low:z.1f} points worse to {high:z.1f} better"


def difference_sentences(differences: pd.DataFrame, settings: Sequence[str]) -> list[str]:
    """What each setting has over the one before it, where these were compared."""
    pairs = ((first, second, f"{second} - {first}") for first, second in pairwise(settings))
    found = {str(name): row for name, row in differences.iterrows()}
    return [
        f"{second} against {first}: {found[name][DIFFERENCE]:+z.1f} points; {in_words(found[name])}."
        for first, second, name in pairs
        if name in found
    ]


def confusions_section(overall: Path, by_device: Path, setting: str, devices: int) -> Section:
    """Confusion matrices of all clips and of each device's."""
    how = (
        "Rows are true scenes, columns what was answered, darker with the share of the row; the diagonal is "
        "right."
    )
    few = (
        f" Of more than {DEVICES_SHOWN} devices those with the most clips are shown."
        if devices > DEVICES_SHOWN
        else ""
    )
    blocks = (
        Picture(
            overall,
            f"Confusion matrices of all test clips, in percent. {how}",
            "Confusion matrices of all test clips.",
        ),
        Picture(
            by_device,
            f"The clips of each device by '{setting}', with the device's macro-average accuracy. {how}{few}",
            f"Confusion matrices of {setting}, one per device; the figures are in the file "
            "tables/confusions.csv.",
        ),
    )
    return Section("What is taken for what", "Confusions", blocks=blocks)


def calibration_section(calibration: pd.DataFrame, reliability: Path, rejection: Path) -> Section:
    """How far confidence can be believed."""
    explained = (
        "The confidence of an answer is the probability that the model gives it. A model is calibrated "
        "where, of the answers with 90 % confidence, 90 % are right.",
        " ".join(confidence_sentence(str(setting), row) for setting, row in calibration.iterrows()),
    )
    table = table_of(
        calibration,
        "In percent, by clips, not averaged over scenes. Calibration error: mean distance of accuracy and "
        f"confidence over {BINS} bins of equal width, weighted by their clips (ECE; Naeini et al., 2015; Guo "
        f"et al., 2017). Surest 80 %: accuracy where the fifth of the clips with the lowest confidence is "
        "not answered.",
    )
    diagrams = Picture(
        reliability,
        "Reliability diagrams. A dot is a bin of clips: on the dashed line they are as often right as the "
        "model is sure, below it the model is too sure; the orange bar is the gap. Below: how many clips are "
        "in the bin.",
        "Reliability diagrams of the settings; the table above has their calibration errors.",
    )
    curves = Picture(
        rejection,
        "Accuracy against confidence: from left to right, more and more of the least sure clips are left "
        "unanswered.",
        "Accuracy of the clips answered over their share; the table above has two points of each line.",
    )
    return Section("How far confidence can be believed", "Confidence", explained, (table, diagrams, curves))


def confidence_sentence(setting: str, row: pd.Series) -> str:
    """Whether a setting is too sure of itself."""
    gap = row[CONFIDENCE] - row[ACCURACY]
    error = f"calibration error {row[CALIBRATION_ERROR]:.1f}"
    if abs(gap) < 1:
        return f"'{setting}' is on average as sure as it is right ({error})."
    return (
        f"'{setting}' is on average {abs(gap):.1f} points {'surer' if gap > 0 else 'less sure'} than it is "
        f"right ({error})."
    )


def hardest_section(
    clips: pd.DataFrame,
    scenes: Sequence[str],
    setting: str,
    *,
    cities: Mapping[str, str],
    pictures: Sequence[Path],
    sounds: Sequence[Path],
) -> Section:
    """Clips of `hardest_clips`, with their pictures and sounds, or without any.
    `cities` are by file name, where known."""
    if clips.empty:
        return Section("The hardest clips", "Hardest clips", (f"'{setting}' recognises every clip.",))
    media: Sequence[tuple[Path | None, Path | None]] = list(zip(pictures, sounds, strict=True)) or [
        (None, None)
    ] * len(clips)
    shown = tuple(
        ShownClip(
            filename=row["filename"],
            scene=row["scene"],
            predicted=row["predicted"],
            device=row["device"],
            place=_place_of(row["location"], cities.get(row["filename"], "")),
            probabilities=_highest(row[list(scenes)].astype(float), row["scene"]),
            picture=picture,
            sound=sound,
        )
        for (_, row), (picture, sound) in zip(clips.iterrows(), media, strict=True)
    )
    heard = (
        "Pictures are log-mels, from low frequencies (bottom) to high, all in the same colours. Sounds are "
        f"brought to the same level; at most {PLAYED_SECONDS:g} s of each are here."
    )
    return Section(
        "The hardest clips",
        "Hardest clips",
        (f"Of '{setting}'. {RULE} ✓ is the true scene.", heard if pictures else NO_SOUND),
        (ShownClips(shown),),
    )


def _place_of(location: str, city: str) -> str:
    """The location, with its city where its name does not tell it."""
    return location if not city or city in location else f"{location}, {city}"


def _highest(probabilities: pd.Series, true: str) -> tuple[tuple[str, float], ...]:
    """The highest probabilities, and that of the true scene."""
    ordered = probabilities.sort_values(ascending=False, kind="stable")
    names = list(dict.fromkeys([*ordered.index[:_PROBABILITIES_SHOWN], true]))
    return tuple((name, float(ordered[name])) for name in names)


def hardest_table(clips: pd.DataFrame) -> pd.DataFrame:
    """The hardest clips for a CSV file, numbered as their pictures and sounds are."""
    numbered = clips.set_axis(
        pd.Index([f"{number:02}" for number in range(1, len(clips) + 1)], name="number")
    )
    return numbered.round({name: 6 for name in numbered.columns if name in (PROBABILITY, TRUE_PROBABILITY)})


def complexity_section(quantization: pd.DataFrame | None) -> Section:
    """What each device's model costs, from the report of `quantize` (a row per device); None:
    there are no INT8 models."""
    title, name = "What the models cost", "Complexity"
    if quantization is None:
        return Section(title, name, ("No INT8 models were evaluated. `quantize` measures what they cost.",))
    rows = tuple(_complexity_row(str(device), row) for device, row in quantization.iterrows())
    header = (
        "model of device",
        "parameters",
        "multiply-accumulates",
        "bytes",
        "multiply-accumulates, served",
        "bytes, served",
        "INT8 convolutions",
        "validation, float",
        "validation, INT8",
    )
    caption = (
        f"One model answers for a clip. Limits of the challenge: {MAX_MACS:,} multiply-accumulates for a "
        f"second of audio, {MAX_BYTES:,} bytes of parameters (INT8 weights, FP16 biases); in brackets the "
        f"share of the limit. Served: counted in the file that answers. Validation: macro-average accuracy "
        f"in percent before and after quantization. Of several runs these are the last one's."
    )
    return Section(title, name, blocks=(Table(caption, header, rows),))


def _complexity_row(device: str, row: pd.Series) -> TableRow:
    """Of one device's model."""
    cells = (
        f"{int(row['parameters']):,}",
        _of_limit(row["macs"], MAX_MACS),
        _of_limit(row["model_bytes"], MAX_BYTES),
        _of_limit(row.get("served macs", math.nan), MAX_MACS),
        _of_limit(row.get("served bytes", math.nan), MAX_BYTES),
        str(row["INT8 convolutions"]),
        f"{row['float accuracy']:.1f}",
        f"{row[INT8_ACCURACY]:.1f}",
    )
    return TableRow(device, tuple(map(Cell, cells)))


def _of_limit(figure: float, limit: int) -> str:
    """A figure with its share of a limit; a dash where a run of an earlier version did not count it."""
    return "-" if math.isnan(figure) else f"{int(figure):,} ({figure / limit * 100:.1f} %)"
