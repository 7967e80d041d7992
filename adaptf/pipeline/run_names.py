"""Words of runs' names: the settings that tell a run from others of its stage, as in `T=2 w=0.02`,
and how teachers are called."""

from collections.abc import Iterator
from typing import Any

from mlflow.exceptions import MlflowException

from adaptf.paths import found_path
from adaptf.pipeline.artifacts import TEACHER_KIND, TEACHER_MODEL
from adaptf.pipeline.config import settings
from adaptf.tracking import runs
from adaptf.tracking.several import FOLDS

SHORT_NAMES = {"T": "loss.temperature", "w": "loss.weight", "DIR": "augment.dir_p", "lr": "optim.lr"}
"""Short name -> field."""
_DIR_OF = "augment.dir_p_of"


def told(config: Any, *always: str) -> Iterator[str]:
    """Those of SHORT_NAMES that are not the default, and some always;
    the probabilities of devices follow as in `DIR b=0.1`."""
    values, defaults = settings(config), settings(type(config)())
    for name, field in SHORT_NAMES.items():
        if name in always or values.get(field) != defaults.get(field):
            yield f"{name}={values[field]:.3g}"
    for devices, value in values.get(_DIR_OF, {}).items():
        yield f"DIR {devices}={value:.3g}"


def short(value: str) -> str:
    """A version without `models:/`, the name of a file, a folder or a run,
    or the first characters of what is none."""
    if value.startswith("models:/"):
        return value.removeprefix("models:/")
    if path := found_path(value):
        return path.stem
    try:
        return runs.name_of(value)
    except MlflowException:
        return value[:6]


def teacher_name(run_id: str) -> str:
    """Kind and network of a teacher, such as 'ssl (beats)' or 'ssl (small_cnn)'."""
    tags = runs.finished_run(run_id, "teacher", f"teacher{FOLDS.suffix}").data.tags
    return f"{tags[TEACHER_KIND]} ({tags[TEACHER_MODEL]})"
