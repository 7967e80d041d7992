"""Names of runs in the run list: the stage, and the settings that tell it from others, as in `distill T=2 w=0.02`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from adaptf.paths import found_path
from adaptf.pipeline.config import settings
from adaptf.pipeline.seeds import SEEDS_SUFFIX
from adaptf.tracking import runs

SETTINGS = {"T": "loss.temperature", "w": "loss.weight", "DIR": "augment.dir_p", "lr": "optim.lr"}
"""Short name -> field."""
ALWAYS = {"distill": ("T", "w"), "train": ("DIR", "lr"), "pretrain": ("DIR", "lr"), "finetune": ()}
"""Stage -> the settings that its name tells whatever they are; the others of SETTINGS where they are not the default."""
DIR_OF = "augment.dir_p_of"
MANY = 2
"""More compared models than these are counted, not named."""


def describe(stage: str, config: Any) -> str:
    """What the run of a stage with this configuration is called where nobody names it.

    The parent of a stage over seeds is called after the stage, with the number of seeds.
    """
    stage = stage.removesuffix(SEEDS_SUFFIX)
    name = " ".join([stage.removesuffix("_device"), *words_of(stage, config)])
    seeds = getattr(config, "seeds", ())
    return f"{name}, {len(seeds)} seeds" if seeds else name


def words_of(stage: str, config: Any) -> Iterator[str]:
    """What tells a run from others of its stage."""
    if stage in ALWAYS:
        yield from settings_in_names(stage, config)
    elif stage == "finetune_device":
        yield config.device if config.left_out == "none" else f"without {config.left_out}"
    elif stage == "teacher":
        yield f"{config.kind} ({network_of(config)})"
    elif stage == "prepare":
        yield Path(config.data.root).stem
    elif stage == "sweep":
        yield f"{config.stage} {config.sweep.study}"
    elif stage == "compare":
        values = [short(value) for value in config.runs.split(",")]
        yield ", ".join(values) if len(values) <= MANY else f"{len(values)} models"
    elif stage == "predict":
        yield Path(config.files).stem
    elif stage in ("promote", "rollback") and config.device != "all":
        yield config.device


def settings_in_names(stage: str, config: Any) -> Iterator[str]:
    """As in `T=2`; the probabilities of devices follow as in `DIR b=0.1`."""
    values, defaults = settings(config), settings(type(config)())
    for name, field in SETTINGS.items():
        if name in ALWAYS[stage] or values.get(field) != defaults.get(field):
            yield f"{name}={values[field]:.3g}"
    for devices, value in values.get(DIR_OF, {}).items():
        yield f"DIR {devices}={value:.3g}"


def network_of(config: Any) -> str:
    """The network of a teacher."""
    from adaptf.mlproject.teacher import network_kind  # here, because the stages' modules need this one

    return network_kind(config)


def short(value: str) -> str:
    """A version without `models:/`, the name of a file, a folder or a run, or the first characters of what is none of these."""
    if value.startswith("models:/"):
        return value.removeprefix("models:/")
    if path := found_path(value):
        return path.stem
    try:
        return runs.name_of(value)
    except MlflowException:
        return value[:6]
