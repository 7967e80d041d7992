"""What the swept stage would refuse of a space's values, said before the first run."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from adaptf.data import clips
from adaptf.data.errors import raise_problems
from adaptf.data.parquet import read_table
from adaptf.errors import UserError, in_section
from adaptf.mlproject.distill import DistillConfig
from adaptf.mlproject.finetune import FinetuneConfig, of_device
from adaptf.pipeline.artifacts import CLIPS, DATA
from adaptf.pipeline.augmentations import build_augmentations, check_folder, dir_p_by_device
from adaptf.pipeline.config import MelConfig
from adaptf.pipeline.finetune_device import check_keep
from adaptf.pipeline.lightning_options import optimizer_of
from adaptf.pipeline.refit import check_choice
from adaptf.pipeline.schedule import averaging_of
from adaptf.pipeline.taught import check_weights, teacher_ids
from adaptf.sweeps.space import DIR_OF, SPACES, Space, space_path, with_values
from adaptf.tracking.runs import download
from adaptf.training.device_probability import devices_in


def check_values(space: Space, config: Any, *, value: str, stage: str) -> None:
    """Raises DataError that lists what the stage would refuse of the ends of the ranges, or of the choices.

    `config`: the stage's, with the runs that it takes from; `value` is that of sweep.space, for the message.
    """
    devices = devices_of(config.prepare_run)
    problems = list(named_twice(space, config))
    for candidate in [] if problems else candidates(space, config):
        try:
            check_stage(candidate, devices)
        except UserError as error:
            problems.append(str(error))
    path = space_path(value, stage)
    shipped = path.parent == SPACES and any(field.startswith(DIR_OF) for field in space)
    hint = "; it is made for TAU's devices: for others give a file of your own as sweep.space" if shipped else ""
    raise_problems(list(dict.fromkeys(problems)), of=f"the settings that the space {path} gives {stage}{hint}")


def devices_of(prepare_run: str) -> list[str]:
    """Device names of the training clips. Raises UpstreamError where the run holds no data."""
    with TemporaryDirectory() as folder:
        return clips.devices_of(read_table(download(prepare_run, DATA, Path(folder)) / CLIPS))


def named_twice(space: Space, config: Any) -> Iterator[str]:
    """Devices whose probability the space searches although the settings name it in another group."""
    for field in space:
        if not field.startswith(DIR_OF):
            continue
        for key in config.augment.dir_p_of:
            both = {*devices_in(field.removeprefix(DIR_OF))} & {*devices_in(key)}
            if both and f"{DIR_OF}{key}" not in space:
                yield (
                    f"{field}: augment.dir_p_of of the settings names {', '.join(sorted(both))} too, in '{key}': "
                    "leave it out there, or give the space the same group"
                )


def candidates(space: Space, config: Any) -> Iterator[Any]:
    """The settings with one field after the other at each of its ends, the others at their first one."""
    first = with_values(config, {field: ends_of(distribution)[0] for field, distribution in space.items()})
    for field, distribution in space.items():
        yield from (with_values(first, {field: end}) for end in ends_of(distribution))


def ends_of(distribution: BaseDistribution) -> Sequence[Any]:
    """Smallest and largest value, or all choices."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    return distribution.low, distribution.high


def check_stage(config: Any, devices: Sequence[str]) -> None:
    """Raises UserError as the stage itself would, as far as that needs no clips."""
    augmentations = {"augment": config.augment}
    if isinstance(config, FinetuneConfig):
        check_keep(of_device(config, clips.UNKNOWN, config.unknown_dir_p))
        augmentations["augment of unknown (unknown_dir_p)"] = replace(config.augment, dir_p=config.unknown_dir_p)
    for section, augment in augmentations.items():
        with in_section(section):
            check_folder(augment)
            dir_p_by_device(augment, devices)
            # No clip is given, so that no bank of impulse responses is read.
            build_augmentations(augment, p_of_clip=np.zeros(0), sample_rate=MelConfig().sample_rate, seed=0)
    epochs = config.optim.max_epochs
    with in_section("optim"):
        optimizer_of(config.optim)
        averaging_of(config.optim)
    if 0 < epochs < config.trainer.validate_every_epochs:
        raise UserError(
            f"trainer.validate_every_epochs is {config.trainer.validate_every_epochs}, optim.max_epochs {epochs}: a trial "
            "would end before its first validation, without a score"
        )
    if isinstance(config, DistillConfig):
        check_choice("train_run", config.train_run)
    if isinstance(config, FinetuneConfig):
        check_choice("distill_run", config.distill_run)
    if isinstance(config, DistillConfig | FinetuneConfig):
        check_weights(config.loss, teacher_ids(config.teacher_runs))
