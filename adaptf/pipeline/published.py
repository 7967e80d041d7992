"""A teacher that others have published as its logits: nothing is trained."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptf.data.clips import TRAIN, VALIDATION
from adaptf.data.published_logits import PublishedLogits, check_scenes, read_published_logits
from adaptf.errors import UserError, in_section
from adaptf.evaluation.scores import Score, accuracy, macro_accuracy, prediction_table
from adaptf.files import sha256_of
from adaptf.pipeline.artifacts import BEST_ACCURACY
from adaptf.pipeline.config import path_field
from adaptf.pipeline.dataset import PreparedData
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import NONE, digest
from adaptf.tracking.stage_run import StageRun


@dataclass(frozen=True)
class PublishedConfig:
    """Logits that others have published (kind=published)."""

    file: str = path_field(NONE)
    """CSV file with the column filename and one per scene, or a tensor (clips, scenes), .pt or .npy. Logits,
    or probabilities, of which the logarithm is taken."""
    names: str = path_field(NONE)
    """Of a tensor: the CSV file with whose rows it was made, which names them in its column filename, such as
    the challenge's split25.csv or meta.csv."""
    scenes: tuple[str, ...] = ()
    """Of a tensor: the scenes of its columns, as in airport,bus; an empty list means all in alphabetical
    order."""


def digest_of_published(config: PublishedConfig) -> str:
    """Of both files. Raises UserError for what can't be read or does not fit together."""
    with in_section("published"):
        _read(config)
    files = [file for file in (config.file, config.names) if file != NONE]
    return digest(*(sha256_of(Path(file)) for file in files))


def published_logits(config: PublishedConfig, data: PreparedData) -> tuple[NDArray[np.float32], str]:
    """Logits (learning clips, scenes), and in words how many there are and how well they know training clips.

    Raises UserError where clips are missing, or labels tell of another order of scenes or of clips.
    """
    rows = data.learning_rows()
    with in_section("published"):
        found = _read(config)
        logits = found.of(list(rows["filename"]), data.classes)
        heard = (rows["split"] == TRAIN).to_numpy()
        truth = rows["scene"].map(data.classes.index).to_numpy()
        columns = found.columns(data.classes)
        right = check_scenes(logits[heard], truth[heard], data.classes, columns=columns, source=found.source)
    used = f"Logits as published in {config.file}: {len(rows)} of {found.count} clips are of these data."
    return logits, f"{used} They recognise {right:.1%} of the training clips"


def published(
    config: PublishedConfig, run: StageRun, data: PreparedData, score: Score
) -> tuple[Result, NDArray[np.float32]]:
    """What takes the place of a training: the score on validation clips; logits (learning clips, scenes)."""
    logits, found = published_logits(config, data)
    rows = data.learning_rows()
    held = (rows["split"] == VALIDATION).to_numpy()
    judged = prediction_table(rows[held], logits[held], data.classes)
    note = (
        f"{found} and {macro_accuracy(judged):.1%} of the validation clips: where that is about the same, "
        "the teacher has learnt from both, and its scores here are too good."
    )
    best = accuracy(judged, score)
    return Result(metrics={BEST_ACCURACY: best}, note=note, summary=f"{run.name}: {note}"), logits


def _read(config: PublishedConfig) -> PublishedLogits:
    if config.file == NONE:
        raise UserError("file is none: give the file that holds the logits")
    names = None if config.names == NONE else Path(config.names)
    return read_published_logits(Path(config.file), names, config.scenes)
