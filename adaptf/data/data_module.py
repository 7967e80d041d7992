"""Training and validation clips as Lightning takes them."""

import logging
from dataclasses import replace

import lightning as L
import torch
from torch.utils.data import DataLoader

from adaptf.data.batch import ClipBatch
from adaptf.data.clip_set import ClipSet
from adaptf.data.loader import bytes_ahead, clip_loader
from adaptf.data.loading import Loading, has_room
from adaptf.data.log_mels import Keep
from adaptf.data.shared_memory import check_shared_memory

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
        loading: Loading,
        keep: Keep = lambda sets, device: sets,
        waveforms_change: bool = True,
    ) -> None:
        """Without `validation` nothing is validated.

        `keep` is asked for the validation clips,
        and for the training clips unless `waveforms_change` by augmentations.
        """
        super().__init__()
        self.train_clips, self.validation_clips = train, validation
        self.batch_size, self.seed, self.loading = batch_size, seed, loading
        self.keep, self.waveforms_change = keep, waveforms_change

    def setup(self, stage: str) -> None:
        """Moves to the memory of this process's device what is wanted there:
        log-mels, or else the training clips.

        Raises SharedMemoryFull where the batches of the workers would fill it.
        """
        trainer = self._trainer()
        device = trainer.strategy.root_device
        self._keep_log_mels(device)
        source = self.train_clips.source
        if source.memory != device and has_room(source.held_bytes, device, self.loading.keep_on_device):
            logger.info("%d training clips are kept in the memory of %s", len(self.train_clips), device)
            self.train_clips = replace(self.train_clips, source=source.held(device))
        for clips in (self.train_clips, *self._validated()):  # one loader at a time reads ahead
            needed = bytes_ahead(clips, batch_size=self.batch_size, loading=self.loading)
            check_shared_memory(needed * trainer.num_devices)

    def _trainer(self) -> L.Trainer:
        if self.trainer is None:
            raise RuntimeError("a trainer has to ask: it knows the device and the epoch")
        return self.trainer

    def _validated(self) -> list[ClipSet]:
        return [] if self.validation_clips is None else [self.validation_clips]

    def _keep_log_mels(self, device: torch.device) -> None:
        validated, learnt = self._validated(), [] if self.waveforms_change else [self.train_clips]
        kept = self.keep([*validated, *learnt], device)
        if validated:
            self.validation_clips = kept[0]
        if learnt:
            self.train_clips = kept[-1]

    def train_dataloader(self) -> DataLoader[ClipBatch]:
        """Shuffled by seed and epoch: workers read ahead before Lightning says which epoch it is."""
        # Of a checkpoint that was written at an epoch's end, current_epoch says that one still.
        epoch = self._trainer().fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        return clip_loader(
            self.train_clips, batch_size=self.batch_size, loading=self.loading, seed=self.seed, epoch=epoch
        )

    def val_dataloader(self) -> list[DataLoader[ClipBatch]]:
        """In the order of the set; an empty list where there is none."""
        return [
            clip_loader(clips, batch_size=self.batch_size, loading=self.loading)
            for clips in self._validated()
        ]
