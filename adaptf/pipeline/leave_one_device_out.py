"""How long `unknown` should be trained: devices that take no part in a training stand for those that nobody knows."""

from dataclasses import replace

import numpy as np

from adaptf.data.shared_objects import SharedObjects
from adaptf.errors import UserError
from adaptf.pipeline.artifacts import START
from adaptf.pipeline.finetune_device import FINETUNE_DEVICE, FinetuneDeviceConfig
from adaptf.pipeline.stage import execute
from adaptf.tracking import runs


def epochs_for_unseen_devices(
    settings: FinetuneDeviceConfig, devices: list[str], *, shared: SharedObjects | None = None
) -> int:
    """The number of epochs after which trainings without one of the devices are best on that device, on average; 0: the start.

    A nested run per device. The start itself has seen all devices: what the runs tell is whether *further* training without a
    device does it harm. Raises UserError for fewer than two devices.
    """
    if len(devices) < 2:
        raise UserError(
            f"unknown_epochs = leave_one_device_out needs two devices and more, got: {', '.join(devices) or 'none'}"
        )
    if settings.trainer.validate_every_epochs != 1 or settings.trainer.devices != "1" or settings.trainer.num_nodes != 1:
        raise UserError(
            "unknown_epochs = leave_one_device_out needs validate_every_epochs, devices and num_nodes of 1 (trainer)"
        )
    if settings.optim.average.kind != "none":
        raise UserError("unknown_epochs = leave_one_device_out judges single epochs, optim.average.kind should be none")
    curves = [scores_without(settings, device, shared) for device in devices]
    mean = np.mean(curves, axis=0)
    best = int(mean.argmax())
    print(f"Unseen devices are heard best after {best} epochs: {mean[0]:.3f} at the start, {mean[best]:.3f} there", flush=True)
    return best


def scores_without(settings: FinetuneDeviceConfig, device: str, shared: SharedObjects | None) -> list[float]:
    """Accuracy on a device's validation clips before and after each epoch of a training without it."""
    every_epoch = replace(settings, keep="best", patience_epochs=0)
    without = replace(every_epoch, left_out=device, min_validation_clips=1)
    run_id = execute(FINETUNE_DEVICE, without, name=f"finetune without {device}", reuse=True, shared=shared)
    return [runs.scores(run_id)[START], *runs.metric_per_epoch(run_id, "val/accuracy")]
