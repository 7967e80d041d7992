"""Stage `finetune`: one model per recording device, and `unknown` for all others."""

import json
import logging
from dataclasses import dataclass, fields, replace
from typing import Any

from adaptf.data.clips import TRAIN, UNKNOWN, devices_of
from adaptf.data.errors import DataError
from adaptf.errors import in_section
from adaptf.evaluation.scores import accuracy
from adaptf.names import in_markdown, stored
from adaptf.pipeline.artifacts import BEST_ACCURACY, DATA_KIND, DEVICE_RUNS, KEPT, SCENES_KIND, TEACHER_KIND
from adaptf.pipeline.augmentations import dir_p_by_device
from adaptf.pipeline.borrowed import Borrowed
from adaptf.pipeline.checkpoints import student_of
from adaptf.pipeline.checks import check_training
from adaptf.pipeline.config import (
    AugmentConfig,
    OptimConfig,
    TrainerConfig,
    upstream,
    upstream_each,
    upstream_model,
)
from adaptf.pipeline.dataset import PreparedData, load_prepared
from adaptf.pipeline.finetune_device import FINETUNE_DEVICE, FinetuneDeviceConfig
from adaptf.pipeline.folds import over_folds
from adaptf.pipeline.learn_device import with_device_from_sound
from adaptf.pipeline.ranges import NOT_NEGATIVE, SHARE, within
from adaptf.pipeline.run_names import told
from adaptf.pipeline.stage import Stage, execute
from adaptf.pipeline.taught import LossConfig, logits_of_teachers, taught, teacher_ids
from adaptf.pipeline.validation import (
    FINETUNED,
    by_own_models,
    read_validation_predictions,
    with_predictions,
    with_tables_of_unchosen,
)
from adaptf.tracking import runs
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun, is_process_zero

logger = logging.getLogger(__name__)
_START = "start"
"""What the tables call the model before it is fine-tuned."""


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tunes the distilled model for each recording device."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    distill_run: str = upstream_model("distill")
    """Run of `distill`, or a checkpoint file, from which each device's model starts."""
    teacher_runs: str = upstream_each("teacher", TEACHER_KIND, optional=True)
    """Runs of `teacher`, separated by commas, from which the models learn on; `latest`:
    the newest one of each kind; `none`: labels alone."""
    loss: LossConfig = FinetuneDeviceConfig.loss
    devices: tuple[str, ...] = ()
    """Devices with a model of their own beside `unknown`;
    an empty list means every device of the training clips."""
    min_clips: int = within(NOT_NEGATIVE, 50)
    """A device with fewer training clips gets no model of its own and is served by `unknown`."""
    min_validation_clips: int = within(NOT_NEGATIVE, FinetuneDeviceConfig.min_validation_clips)
    """A device with fewer validation clips is judged on those of all devices."""
    borrowed: Borrowed = FinetuneDeviceConfig.borrowed
    """Whose clips a device's model learns from beside its own. matched: all others', each band of their
    log-mels brought to its mean and deviation in the device's clips (Mezza et al., 2020); its own are
    repeated until they are half at least. none: nobody's."""
    refit: bool = FinetuneDeviceConfig.refit
    """Trains on the validation clips too, for exactly optim.max_epochs;
    what comes of it can't be judged on them."""
    augment: AugmentConfig = FinetuneDeviceConfig.augment
    """Augmentations for the devices' models; `unknown` has its own dir_p, in unknown_dir_p."""
    unknown_dir_p: float = within(SHARE, 0.8)
    """Probability, from 0 to 1, of an impulse response in training `unknown`, on clips of the devices in
    augment.dir_devices, whatever augment.dir_p_of says for the devices' own models."""
    unknown_epochs: int = within(NOT_NEGATIVE, 0)
    """Epochs of `unknown`, in one cosine; 0: as many as the devices' models take, in the same cycles."""
    optim: OptimConfig = FinetuneDeviceConfig.optim
    trainer: TrainerConfig = TrainerConfig()
    seed: int = 0
    """Any whole number: starts the random numbers for the order of the clips and their augmentations."""
    seeds: tuple[int, ...] = ()
    """Several seeds instead of one, as in 0,1,2: a child run with each of them, and here their mean and its
    95 % interval."""


def finetune(config: FinetuneConfig, run: StageRun) -> Result:
    """A nested run per device; a device whose run has finished is not trained again."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    student = student_of(run, config.distill_run, data)
    check_teachers(config, run, data)
    devices = devices_to_tune(config, data)
    dir_p = response_probabilities(config, data)
    settings_of = {device: of_device(config, device, dir_p.get(device, 0.0)) for device in devices}
    settings_of[UNKNOWN] = of_unknown(config)
    models = {
        device: execute(FINETUNE_DEVICE, own, name=f"finetune {device}", reuse=True, shared=run.shared)
        for device, own in settings_of.items()
    }
    if not is_process_zero():
        return Result()
    path = run.folder / DEVICE_RUNS
    path.write_text(json.dumps(models, indent=1))
    rows = "\n".join(f"| {in_markdown(device)} | {run_id} |" for device, run_id in models.items())
    settings = {
        setting: by_own_models(
            {device: read_validation_predictions(run, run_id, which) for device, run_id in models.items()}
        )
        for setting, which in ((_START, "start"), (FINETUNED, "kept"))
    }
    result = Result(
        metrics={
            BEST_ACCURACY: accuracy(settings[FINETUNED], config.trainer.score),
            **{f"{KEPT}/{stored(device)}": runs.scores(run_id)[KEPT] for device, run_id in models.items()},
        },
        files={DEVICE_RUNS: path},
        parts=models.values(),
        note=f"| device | run |\n|---|---|\n{rows}",
    )
    result = with_device_from_sound(result, run, data, devices, student, config.trainer.accelerator)
    shown = with_tables_of_unchosen(result, run, data, settings, start=config.distill_run, refit=config.refit)
    return with_predictions(shown, run, settings)


def check_teachers(config: FinetuneConfig, run: StageRun, data: PreparedData) -> None:
    """Raises UserError for logits of other data, and where they have no temperature and one is asked for."""
    try:
        tables = logits_of_teachers(config.loss, run, teacher_ids(config.teacher_runs), data)
        taught(data.clip_set(data.learning_rows(), TRAIN), tables, data)
    except DataError as error:
        raise DataError(f"{error}. Or do without teachers: teacher_runs=none") from error


def response_probabilities(config: FinetuneConfig, data: PreparedData) -> dict[str, float]:
    """Of an impulse response, by device.
    Raises UserError where `augment` names a device that there is not."""
    with in_section("augment"):
        return dir_p_by_device(config.augment, data.training_devices)


def of_device(config: FinetuneConfig, device: str, dir_p: float) -> FinetuneDeviceConfig:
    """The settings of one device's model;
    what is said of others' clips is not among them, so that it makes no other run."""
    devices = () if device == UNKNOWN else (device,)
    augment = replace(config.augment, dir_p=dir_p, dir_devices=devices, dir_p_of={})
    alike: dict[str, Any] = {
        one.name: getattr(config, one.name)
        for one in fields(FinetuneDeviceConfig)
        if one.name not in ("device", "augment")
    }
    return FinetuneDeviceConfig(device=device, augment=augment, **alike)


def of_unknown(config: FinetuneConfig) -> FinetuneDeviceConfig:
    """The settings of the model for all other devices."""
    augment, optim = replace(config.augment, dir_p=config.unknown_dir_p, dir_p_of={}), config.optim
    if epochs := config.unknown_epochs:
        optim = replace(optim, max_epochs=epochs, restart_epochs=epochs)
    return replace(of_device(config, UNKNOWN, config.unknown_dir_p), augment=augment, optim=optim)


def devices_to_tune(config: FinetuneConfig, data: PreparedData) -> list[str]:
    """The devices asked for that have enough training clips; a warning names the others."""
    counts = data.table[data.table["split"] == TRAIN]["device"].value_counts()
    wanted = list(config.devices) or devices_of(data.table)
    few = [device for device in wanted if counts.get(device, 0) < config.min_clips]
    for device in few:
        logger.warning(
            "Device %s has %d training clips, fewer than min_clips = %d: it gets no model of its own and is "
            "served by '%s'",
            device,
            counts.get(device, 0),
            config.min_clips,
            UNKNOWN,
        )
    return [device for device in wanted if device not in few and device != UNKNOWN]


FINETUNE = Stage(
    "finetune",
    run=finetune,
    config=FinetuneConfig,
    check=check_training,
    words=told,
    folds=over_folds(_START, FINETUNED),
)


if __name__ == "__main__":
    FINETUNE.main()
