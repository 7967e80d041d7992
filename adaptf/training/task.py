"""The Lightning task: one step for training and validation of any classifier."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import Metric

from adaptf.data.batch import ClipBatch
from adaptf.models.checkpoint import DESCRIPTION
from adaptf.models.classifier import Classifier
from adaptf.training.augmentation import Augmentation
from adaptf.training.generators import generator_states, restore_generators
from adaptf.training.optim import ConfigureOptimizer

Loss = Callable[[Tensor, ClipBatch], dict[str, Tensor]]
"""From logits and the batch to the parts of the loss by name, `loss` being the one to minimise."""


@dataclass(frozen=True)
class Measure:
    """A metric, and what it compares."""

    metric: Metric
    compares: Callable[[Tensor, ClipBatch], tuple[Tensor, ...]]
    """From logits and the batch to the arguments of the metric's update."""


def with_targets(metric: Metric) -> Measure:
    """A metric of the logits against the targets."""
    return Measure(metric, lambda logits, batch: (logits, batch.targets))


class ClassifierTask(L.LightningModule):
    """Waveform augmentations, features, log-mel augmentations, network, loss.

    The first of the `measures` of an epoch's validation clips is the score that chooses the checkpoint.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        loss: Loss,
        measures: Mapping[str, Measure],
        optimizer: ConfigureOptimizer,
        waveform_augmentations: Sequence[Augmentation] = (),
        feature_augmentations: Sequence[Augmentation] = (),
        generators: Mapping[str, np.random.Generator] | None = None,
    ) -> None:
        super().__init__()
        self.classifier, self.loss, self.optimizer = classifier, loss, optimizer
        self.measures, self.score_name = dict(measures), next(iter(measures))
        self.metrics = nn.ModuleDict({name: measure.metric for name, measure in measures.items()})  # moved with the network
        self.waveform_augmentations, self.feature_augmentations = waveform_augmentations, feature_augmentations
        self.generators = dict(generators or {})

    def forward(self, waveform: Tensor) -> Tensor:
        return self.classifier(waveform)

    def training_step(self, batch: ClipBatch, batch_index: int) -> Tensor:
        return self._step(batch, "train", self.waveform_augmentations, self.feature_augmentations)[0]

    def validation_step(self, batch: ClipBatch, batch_index: int) -> None:
        _, logits = self._step(batch, "val", (), ())
        for name, measure in self.measures.items():
            measure.metric.update(*measure.compares(logits, batch))
            self.log(f"val/{name}", measure.metric, on_step=False, on_epoch=True, batch_size=len(batch.x))

    def _step(
        self,
        batch: ClipBatch,
        phase: str,
        waveform_augmentations: Sequence[Augmentation],
        feature_augmentations: Sequence[Augmentation],
    ) -> tuple[Tensor, Tensor]:
        """The loss and the logits."""
        for augment in waveform_augmentations:
            batch = augment(batch)
        if not batch.has_features:
            with torch.no_grad():
                batch = batch._replace(x=self.classifier.features(batch.x), has_features=True)
        for augment in feature_augmentations:
            batch = augment(batch)
        logits = self.classifier.network(batch.x)
        parts = self.loss(logits, batch)
        for name, part in parts.items():
            self.log(f"{phase}/{name}", part.detach(), on_step=False, on_epoch=True, batch_size=len(batch.x), sync_dist=True)
        return parts["loss"], logits

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return self.optimizer(self.classifier.network)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what rebuilds the classifier, and every generator's place, so that a resumed run draws what it would have."""
        checkpoint[DESCRIPTION] = self.classifier.description.as_dict()
        checkpoint["generators"] = generator_states(self.generators)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        restore_generators(self.generators, checkpoint["generators"], process=self.global_rank)
