"""Training and validation clips as Lightning takes them."""

import logging
from collections.abc import Callable, Sequence

import lightning as L
import torch
from torch.utils.data import DataLoader

from adaptf.data.batch import ClipBatch
from adaptf.data.clip_set import ClipSet
from adaptf.data.device_memory import OnDevice, fits, on_device
from adaptf.data.loader import bytes_ahead, clip_loader
from adaptf.data.shared_memory import check_shared_memory

LogMelsOf = Callable[[Sequence[ClipSet], torch.device], Sequence[ClipSet]]
"""From clip sets to the same sets, with log-mels in the memory of the device as far as there is room."""
logger = logging.getLogger(__name__)


class ClipDataModule(L.LightningDataModule):
    """Clips of all devices or of one, whichever sets it is given. Each batch is one indexed read."""

    def __init__(
        self,
        train: ClipSet,
        validation: ClipSet | None,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        pin_memory: bool = False,
        keep_on_device: OnDevice = "auto",
        first_epoch: int = 0,
        log_mels_of: LogMelsOf | None = None,
        waveforms_change: bool = True,
    ) -> None:
        """Without `validation` nothing is validated. `first_epoch`: that of a resumed training; workers read ahead before
        Lightning says which epoch it is.

        `log_mels_of` is asked for the validation clips, and for the training clips unless `waveforms_change` by augmentations.
        """
        super().__init__()
        self.train_clips, self.validation_clips = train, validation
        self.batch_size, self.seed, self.first_epoch = batch_size, seed, first_epoch
        self.workers, self.pin_memory, self.keep_on_device = workers, pin_memory, keep_on_device
        self.log_mels_of, self.waveforms_change = log_mels_of, waveforms_change
        self.train_is_on_device = False

    def setup(self, stage: str) -> None:
        """Moves to the memory of this process's device what is wanted there: log-mels, or else the training clips.

        Raises SharedMemoryFull where the batches of the workers would fill it.
        """
        if self.trainer is None:
            raise RuntimeError("a trainer has to call setup: it knows the device")
        device = self.trainer.strategy.root_device
        if self.log_mels_of is not None:
            judging = [] if self.validation_clips is None else [self.validation_clips]
            learnt = [] if self.waveforms_change else [self.train_clips]
            made = self.log_mels_of([*judging, *learnt], device)
            self.validation_clips = made[0] if judging else None
            self.train_clips = made[-1] if learnt else self.train_clips
            self.train_is_on_device |= self.train_clips.log_mels is not None
        if not self.train_is_on_device and fits(self.train_clips, device, self.keep_on_device):
            logger.info("%d training clips are kept in the memory of %s", len(self.train_clips), device)
            self.train_clips, self.train_is_on_device = on_device(self.train_clips, device), True
        for clips, workers in ((self.train_clips, self.train_workers), (self.validation_clips, self.validation_workers)):
            if clips is None:
                continue
            needed = bytes_ahead(clips, batch_size=self.batch_size, workers=workers)  # one loader at a time reads ahead
            check_shared_memory(needed * self.trainer.num_devices)

    @property
    def train_workers(self) -> int:
        """Processes that read training clips: none where they are in memory."""
        return 0 if self.train_is_on_device else self.workers

    @property
    def validation_workers(self) -> int:
        """Processes that read validation clips: none where their log-mels are in memory."""
        return 0 if self._validates_log_mels else self.workers

    @property
    def _validates_log_mels(self) -> bool:
        return self.validation_clips is not None and self.validation_clips.log_mels is not None

    def train_dataloader(self) -> DataLoader[ClipBatch]:
        """Shuffled by seed and epoch."""
        return clip_loader(
            self.train_clips,
            batch_size=self.batch_size,
            shuffle=True,
            seed=self.seed,
            first_epoch=self.first_epoch,
            workers=self.train_workers,
            pin_memory=self.pin_memory and not self.train_is_on_device,
        )

    def val_dataloader(self) -> DataLoader[ClipBatch] | list[DataLoader[ClipBatch]]:
        """In the order of the set; an empty list where there is none."""
        if self.validation_clips is None:
            return []
        return clip_loader(
            self.validation_clips,
            batch_size=self.batch_size,
            shuffle=False,
            workers=self.validation_workers,
            pin_memory=self.pin_memory and not self._validates_log_mels,
        )
