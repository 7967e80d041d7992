"""Running Lightning's trainer: the best and the last checkpoint, resuming, loggers, progress."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from adaptf.data.data_module import ClipDataModule
from adaptf.files import remove, written_aside
from adaptf.models.checkpoint import save_weights
from adaptf.models.torch_file import UnreadableFile, compare_checksums
from adaptf.training.divergence import StopDiverged
from adaptf.training.memory import keep_freed_memory
from adaptf.training.progress import EpochLines
from adaptf.training.task import ClassifierTask

_BEST, _LAST = "best", "last"
logger = logging.getLogger(__name__)


class Watched(Callback):
    """Tells the epochs that are done, so 1 first, and the validation's score;
    what `watch` raises reaches fit's caller."""

    def __init__(self, watch: Callable[[int, float], None]) -> None:
        self.watch = watch

    def on_validation_end(self, trainer: L.Trainer, task: Any) -> None:
        if not trainer.sanity_checking:
            self.watch(trainer.current_epoch + 1, float(trainer.callback_metrics[f"val/{task.score_name}"]))


class _WholeCheckpoints(TorchCheckpointIO):
    """Lightning's own go through another disk's temporary folder,
    so that a kill or a power cut leaves half of one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with written_aside(Path(path)) as aside, open(aside, "wb") as file:
            torch.save(checkpoint, file)


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
    data: ClipDataModule,
    *,
    epochs: int,
    validated_every: int,
    folder: Path,
    name: str,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callback] = (),
    trainer_options: Mapping[str, Any] | None = None,
) -> Fitted:
    """Trains from the checkpoint in `folder` that an interrupted run left, else from the task's weights.

    There is a validation after each `validated_every` epochs. Without validation clips nothing chooses: all
    epochs are trained, and the last one is taken. `trainer_options` go to lightning.Trainer as they are:
    accelerator, devices, strategy, ... Raises ValueError where a set is empty, and Diverged.
    """
    _check_clips(data, name)
    keep_freed_memory()
    score_name = f"val/{task.score_name}"
    checkpoint = partial(
        ModelCheckpoint, dirpath=folder, auto_insert_metric_name=False, enable_version_counter=False
    )
    best = (
        checkpoint(filename=_BEST, monitor=score_name, mode="max")
        if data.validation_clips is not None
        else None
    )
    # Lightning's own save_last writes only when the best does: after a bad epoch it would not be the last.
    newest = checkpoint(filename=_LAST, save_on_train_epoch_end=True)
    trainer = L.Trainer(
        max_epochs=epochs,
        callbacks=[
            *([best] if best else []),
            newest,
            EpochLines(name, task.score_name),
            StopDiverged(),
            *callbacks,
            *([LearningRateMonitor(logging_interval="epoch")] if loggers else []),
        ],
        logger=list(loggers) or False,
        check_val_every_n_epoch=validated_every,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        default_root_dir=folder,
        plugins=[_WholeCheckpoints()],
        **(trainer_options or {}),
    )
    task.train()  # Lightning trains a module in the mode that it finds it in
    last = folder / f"{_LAST}.ckpt"
    with _known_warnings_ignored():
        trainer.fit(task, datamodule=data, ckpt_path=_left_checkpoint(folder, name), weights_only=True)
    weights = folder / "weights"
    return Fitted(
        best=save_weights(Path(best.best_model_path or last) if best else last, weights / f"{_BEST}.ckpt"),
        last=save_weights(last, weights / f"{_LAST}.ckpt"),
        score_name=task.score_name,
        best_score=_score(best) if best else None,
        epochs=trainer.current_epoch,
    )


def _left_checkpoint(folder: Path, name: str) -> Path | None:
    """Where an interrupted training goes on: its last checkpoint, else its best one;
    None where it begins anew."""
    for half_written in folder.glob(".*"):
        remove(half_written)
    best, last = folder / f"{_BEST}.ckpt", folder / f"{_LAST}.ckpt"
    if best.exists() and not _is_whole(best):
        remove(last)  # it counts on the best one
        remove(best)
    if last.exists() and not _is_whole(last):
        remove(last)
    found = next(filter(Path.exists, (last, best)), None)
    if found:
        logger.info("%s continues from %s", name, found)
    return found


def _is_whole(checkpoint: Path) -> bool:
    try:
        compare_checksums(checkpoint)
    except UnreadableFile as error:
        logger.warning(
            "%s is not gone on with: %s. The training goes back to the one before", checkpoint, error
        )
        return False
    return True


def _check_clips(data: ClipDataModule, name: str) -> None:
    for part, clips in (("training", data.train_clips), ("validation", data.validation_clips)):
        if clips is not None and not len(clips):
            raise ValueError(f"{name} has no {part} clips")


def _score(best: ModelCheckpoint) -> float:
    return float("nan") if best.best_model_score is None else float(best.best_model_score)


@contextmanager
def _known_warnings_ignored() -> Iterator[None]:
    with warnings.catch_warnings():
        # A batch is one indexed read of a mapped file: more workers than asked for would gain nothing.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*infer the `batch_size`.*")
        warnings.filterwarnings(
            "ignore", message=".*exists and is not empty.*"
        )  # what a resumed training finds
        warnings.filterwarnings(
            "ignore", message="No (positive|negative) samples in targets.*"
        )  # rare labels
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
        warnings.filterwarnings("ignore", message="Total length of `list`.*")  # where nothing is validated
        yield
