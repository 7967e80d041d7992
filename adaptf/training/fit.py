"""Running Lightning's trainer: the best and the last checkpoint, resuming, loggers, progress."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger

from adaptf.audio.logmel import LogMel
from adaptf.data.clip_set import ClipSet
from adaptf.data.data_module import ClipDataModule, LogMelsOf
from adaptf.data.device_memory import OnDevice
from adaptf.data.log_mels import LogMelTables
from adaptf.models.checkpoint import read_checkpoint, save_weights
from adaptf.training.memory import keep_freed_memory
from adaptf.training.progress import EpochLines
from adaptf.training.task import ClassifierTask

BEST, LAST = "best", "last"
BYTES_PER_GB = 1e9
logger = logging.getLogger(__name__)


class Patience(EarlyStopping):
    """Ends a training that was over when its checkpoint was written: Lightning alone would train on for an epoch."""

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class Watched(Callback):
    """Tells the epochs that are done, so 1 first, and the validation's score; what `watch` raises reaches fit's caller."""

    def __init__(self, watch: Callable[[int, float], None], score_name: str) -> None:
        self.watch, self.score_name = watch, score_name

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.watch(trainer.current_epoch + 1, float(trainer.callback_metrics[self.score_name]))


@dataclass(frozen=True)
class Fitted:
    """What a training leaves."""

    best: Path
    """Weights of the highest validation score; without validation the last ones."""
    last: Path
    """Weights after the last epoch."""
    score_name: str
    best_score: float | None
    """None without validation clips; not a number where no epoch was validated."""
    epochs: int


def fit(
    task: ClassifierTask,
    *,
    train: ClipSet,
    validation: ClipSet | None,
    folder: Path,
    max_epochs: int,
    batch_size: int,
    seed: int,
    name: str,
    loggers: Sequence[Logger] = (),
    workers: int = 0,
    pin_memory: bool = False,
    keep_on_device: OnDevice = "auto",
    progress_bar: bool = True,
    validate_every_epochs: int = 1,
    patience_epochs: int = 0,
    averaging: Callback | None = None,
    watch: Callable[[int, float], None] | None = None,
    log_mels: LogMelTables | None = None,
    log_mel_gb: float = 0.0,
    trainer_options: Mapping[str, Any] | None = None,
) -> Fitted:
    """Trains from `last.ckpt` in `folder` where an interrupted run left one, else from the task's weights.

    Without `validation` nothing chooses: all `max_epochs` are trained, and the last one is taken. `patience_epochs`: training
    ends after so many epochs without a better score; 0 never ends it early. `averaging` averages weights (averaging.py).
    `watch` is told of every validation (Watched). `log_mels` keeps up to `log_mel_gb` of them. `trainer_options` go to
    lightning.Trainer as they are: accelerator, devices, strategy, ... Raises ValueError where a set is empty.
    """
    for part, clips in (("training", train), ("validation", validation)):
        if clips is not None and not len(clips):
            raise ValueError(f"{name} has no {part} clips")
    keep_freed_memory()
    checkpoint = partial(ModelCheckpoint, dirpath=folder, auto_insert_metric_name=False, enable_version_counter=False)
    score_name = f"val/{task.score_name}"
    best = checkpoint(filename=BEST, monitor=score_name, mode="max") if validation is not None else None
    # Lightning's own save_last writes only when the best does: after a bad epoch it would not be the last.
    newest = checkpoint(filename=LAST, save_on_train_epoch_end=True)
    callbacks: list[Callback] = [*([best] if best else []), newest, EpochLines(name, task.score_name)]
    if averaging is not None:
        callbacks.append(averaging)
    if watch is not None:
        callbacks.append(Watched(watch, score_name))
    if patience_epochs and validation is not None:
        validations = max(1, patience_epochs // validate_every_epochs)
        callbacks.append(Patience(score_name, mode="max", patience=validations, check_on_train_epoch_end=False))
    if loggers:
        callbacks.append(LearningRateMonitor(logging_interval="epoch"))
    if progress_bar:
        callbacks.append(TQDMProgressBar(refresh_rate=5))
    trainer = L.Trainer(
        max_epochs=max_epochs,
        callbacks=callbacks,
        logger=list(loggers) or False,
        check_val_every_n_epoch=validate_every_epochs,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=progress_bar,
        enable_model_summary=False,
        default_root_dir=folder,
        **(trainer_options or {}),
    )
    task.train()  # Lightning trains a module in the mode that it finds it in
    last = folder / f"{LAST}.ckpt"
    if last.is_file():
        logger.info("%s continues from %s", name, last)
    with warnings.catch_warnings():
        # A batch is one indexed read of a mapped file: more workers than asked for would gain nothing.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*infer the `batch_size`.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # what a resumed training finds
        warnings.filterwarnings("ignore", message="No (positive|negative) samples in targets.*")  # rare labels
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
        warnings.filterwarnings("ignore", message="Total length of `list`.*")  # where nothing is validated
        data = ClipDataModule(
            train,
            validation,
            batch_size=batch_size,
            seed=seed,
            workers=workers,
            pin_memory=pin_memory,
            keep_on_device=keep_on_device,
            first_epoch=read_checkpoint(last)["epoch"] + 1 if last.is_file() else 0,
            log_mels_of=log_mels_of(task, log_mels, limit_bytes=log_mel_gb * BYTES_PER_GB, on_device=keep_on_device),
            waveforms_change=bool(task.waveform_augmentations),
        )
        trainer.fit(task, datamodule=data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    score = best.best_model_score if best else None
    weights = folder / "weights"
    return Fitted(
        best=save_weights(Path(best.best_model_path or last) if best else last, weights / f"{BEST}.ckpt"),
        last=save_weights(last, weights / f"{LAST}.ckpt"),
        score_name=task.score_name,
        best_score=(float("nan") if score is None else float(score)) if best else None,
        epochs=trainer.current_epoch,
    )


def log_mels_of(
    task: ClassifierTask, tables: LogMelTables | None, *, limit_bytes: float, on_device: OnDevice
) -> LogMelsOf | None:
    """What gives clips the log-mels of the task's classifier; None where it takes other features or there are no tables."""
    features = task.classifier.features
    if tables is None or not isinstance(features, LogMel):
        return None
    return partial(tables.given_to, logmel=features, limit_bytes=limit_bytes, on_device=on_device)
