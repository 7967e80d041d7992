"""What no training could use of its settings, said before any work begins."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import numpy as np

from adaptf.audio.logmel import LogMel
from adaptf.errors import in_section
from adaptf.models.students.registry import find_student
from adaptf.pipeline.augmentations import build_augmentations, check_folder, dir_p_by_device
from adaptf.pipeline.config import AugmentConfig, BeatsOptimConfig, MelConfig, ModelConfig, OptimConfig
from adaptf.pipeline.lightning_options import optimizer_of


def check_training(config: Any) -> None:
    """Raises UserError for augmentations and schedules, in whatever section, that no training could use."""
    for section, part in _sections(config):
        with in_section(section):
            if isinstance(part, MelConfig):
                LogMel(**asdict(part))
            if isinstance(part, ModelConfig):
                find_student(part.kind).network(classes=1, **part.network_settings())
            if isinstance(part, AugmentConfig):
                check_folder(part)
                # No clip is given, so that no bank of impulse responses is read.
                build_augmentations(part, p_of_clip=np.zeros(0), sample_rate=MelConfig().sample_rate, seed=0)
            if isinstance(part, OptimConfig | BeatsOptimConfig):
                optimizer_of(part)


def check_augmented_devices(config: Any, devices: Sequence[str]) -> None:
    """Raises UserError where augmentations name a device of which there are no training clips."""
    for section, part in _sections(config):
        if isinstance(part, AugmentConfig):
            with in_section(section):
                dir_p_by_device(part, devices)


def _sections(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The sections of a configuration, also within others, by their dotted names."""
    for one in fields(config):
        value, name = getattr(config, one.name), f"{prefix}{one.name}"
        if is_dataclass(value):
            yield name, value
            yield from _sections(value, f"{name}.")
