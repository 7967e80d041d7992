"""The checkpoint that a stage starts from: that of a run, or a file of the user's."""

import os
from collections.abc import Sequence
from pathlib import Path

from adaptf.errors import UserError
from adaptf.models.checkpoint import load_classifier
from adaptf.models.classifier import Classifier
from adaptf.models.students.registry import STUDENTS
from adaptf.pipeline.artifacts import BEST
from adaptf.pipeline.dataset import PreparedData
from adaptf.pipeline.students import PUBLIC
from adaptf.tracking import runs
from adaptf.tracking.stage_run import StageRun


def checkpoint_of(run: StageRun, value: str, *, data: PreparedData | None = None) -> Path:
    """The best checkpoint of a run,
    or a checkpoint file of the user's (also of the public reference trainer).

    Raises UpstreamError where `data` is given and the run learnt from other data.
    """
    if os.path.isfile(value):  # of Path it is an error where the value is too long for a file's name
        return Path(value)
    if data is not None:
        run.shared.once(("checked", value, data.digest), lambda: runs.check_data(value, data.digest))
    return run.download(value, BEST)


def classifier_of(run: StageRun, value: str, data: PreparedData) -> Classifier:
    """That of a run's best checkpoint, or of a file.
    Raises UserError where it does not tell the data's scenes apart."""
    classifier = load_classifier(checkpoint_of(run, value, data=data), public_description=PUBLIC)
    check_scenes(value, classifier.description.classes, data)
    rate, wanted = classifier.description.features.get("sample_rate"), data.waveforms.format.sample_rate
    if rate not in (None, wanted):
        raise UserError(f"{value} is made for clips of {rate} Hz, those of the data have {wanted} Hz")
    return classifier


def student_of(run: StageRun, value: str, data: PreparedData) -> Classifier:
    """The same of a student. Raises UserError for another network, such as a teacher's."""
    classifier = classifier_of(run, value, data)
    kind = classifier.description.kind
    if kind not in STUDENTS:
        known = ", ".join(f"'{name}'" for name in STUDENTS)
        raise UserError(f"{value} holds a network of kind '{kind}', one of {known} is needed")
    return classifier


def check_scenes(what: str, scenes: Sequence[str], data: PreparedData) -> None:
    """Raises UserError where a model's scenes, in the order of its logits, are not those of the data."""
    if tuple(scenes) != data.classes:
        other = "in another order" if set(scenes) == set(data.classes) else "another task"
        raise UserError(
            f"{what} tells {', '.join(scenes)} apart, the data has {', '.join(data.classes)}: {other}"
        )
