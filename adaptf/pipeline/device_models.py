"""The model of each device, of a run of `finetune` or of checkpoint files,
loaded and held against the data and each other."""

import inspect
from collections.abc import Iterable
from typing import Any

from adaptf.audio.logmel import LogMel
from adaptf.data.clips import UNKNOWN, devices_of
from adaptf.errors import UserError
from adaptf.models.classifier import Classifier
from adaptf.pipeline.artifacts import device_runs
from adaptf.pipeline.checkpoints import student_of
from adaptf.pipeline.dataset import PreparedData
from adaptf.tracking.stage_run import StageRun


def device_models(run: StageRun, value: str, data: PreparedData) -> dict[str, Classifier]:
    """By device. Raises UserError where one is no student for the data's scenes,
    or takes another log-mel than the others."""
    held = device_runs(run, value)
    models = {device: student_of(run, one, data) for device, one in held.items()}
    wanted = _log_mel_of(models[UNKNOWN])
    for device, model in models.items():
        found = _log_mel_of(model)
        if different := [
            f"{name} is {found[name]} and {wanted[name]}" for name in wanted if found[name] != wanted[name]
        ]:
            raise UserError(
                f"{held[device]} of {device} and {held[UNKNOWN]} of {UNKNOWN} take different log-mels, where "
                f"the models of a router share one: {', '.join(different)}"
            )
    return models


def _log_mel_of(student: Classifier) -> dict[str, Any]:
    """Its settings, those of defaults too."""
    return {name: getattr(student.features, name) for name in inspect.signature(LogMel).parameters}


def check_devices(what: str, devices: Iterable[str], data: PreparedData) -> None:
    """Raises UserError for a device that the data does not know:
    a slip would leave its clips to `unknown`, in silence."""
    if strange := [device for device in devices if device not in (UNKNOWN, *data.devices)]:
        raise UserError(
            f"{what} has models of {', '.join(strange)}; the data's devices are {', '.join(data.devices)}"
        )


def check_clips_of(devices: Iterable[str], data: PreparedData) -> None:
    """Raises UserError for a device without training clips,
    from which the ranges of its activations are taken."""
    known = devices_of(data.table)
    if strange := [device for device in devices if device not in (UNKNOWN, *known)]:
        raise UserError(
            f"there are models of {', '.join(strange)}, and training clips of {', '.join(known)} alone: a "
            f"model is calibrated on clips of its device. Leave these models out, or give data that has "
            "clips of their devices"
        )
