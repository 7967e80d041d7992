"""What the swept stage would refuse of a space's values, said before the first run."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from adaptf.data.errors import raise_problems
from adaptf.errors import UserError
from adaptf.pipeline.checks import check_augmented_devices
from adaptf.pipeline.config import check_ranges, upstream_fields
from adaptf.pipeline.refit import check_choice
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.taught import check_temperatures, teacher_ids
from adaptf.sweeps.space import DIR_OF, SPACES, Space, space_path, with_values
from adaptf.training.device_probability import devices_in

_STARTS = ("train_run", "distill_run")
"""Fields of runs from which trials start, which should not have learnt from the clips that judge them."""


def check_values(space: Space, config: Any, refuse: Callable[[Any], None], *, value: str, stage: str) -> None:
    """Raises DataError that lists what the stage would refuse of the ends of the ranges, or of the choices.

    `refuse` raises UserError for settings of the stage; `value` is that of sweep.space, for the message.
    """
    problems = list(_named_twice(space, config))
    for candidate in [] if problems else _candidates(space, config):
        try:
            refuse(candidate)
        except UserError as error:
            problems.append(str(error))
    path = space_path(value, stage)
    shipped = path.parent == SPACES and any(field.startswith(DIR_OF) for field in space)
    hint = (
        "; it is made for TAU's devices: for others give a file of your own as sweep.space" if shipped else ""
    )
    raise_problems(
        list(dict.fromkeys(problems)), of=f"the settings that the space {path} gives {stage}{hint}"
    )


def check_trial(stage: Stage[Any], config: Any, devices: Sequence[str]) -> None:
    """Raises UserError for settings that the stage would refuse for training clips of these devices."""
    check_ranges(config)
    stage.check(config)
    check_augmented_devices(config, devices)
    if hasattr(config, "loss"):
        check_temperatures(config.loss, teacher_ids(config.teacher_runs))
    for field in upstream_fields(config):
        if field.name in _STARTS:
            check_choice(field.name, getattr(config, field.name))


def _named_twice(space: Space, config: Any) -> Iterator[str]:
    """Devices whose probability the space searches although the settings name it in another group."""
    for field in space:
        if not field.startswith(DIR_OF):
            continue
        for key in config.augment.dir_p_of:
            both = {*devices_in(field.removeprefix(DIR_OF))} & {*devices_in(key)}
            if both and f"{DIR_OF}{key}" not in space:
                yield (
                    f"{field}: augment.dir_p_of of the settings names {', '.join(sorted(both))} too, in "
                    f"'{key}': leave it out there, or give the space the same group"
                )


def _candidates(space: Space, config: Any) -> Iterator[Any]:
    """The settings with one field after the other at each of its ends, the others at their first one."""
    first = with_values(config, {field: _ends(distribution)[0] for field, distribution in space.items()})
    for field, distribution in space.items():
        yield from (with_values(first, {field: end}) for end in _ends(distribution))


def _ends(distribution: BaseDistribution) -> Sequence[Any]:
    """Smallest and largest value, or all choices."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    return distribution.low, distribution.high
