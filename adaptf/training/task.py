"""The Lightning task: one step for training and validation of any classifier."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import Metric

from adaptf.audio.cores import in_parts
from adaptf.data.batch import ClipBatch, Labels, WaveformBatch, with_features
from adaptf.models.checkpoint import MODEL_KEY
from adaptf.models.classifier import Classifier
from adaptf.training.augmentation import FeatureAugmentation, WaveformAugmentation
from adaptf.training.generators import generator_states, restore_generators
from adaptf.training.optim import ConfigureOptimizer

Loss = Callable[[Tensor, Labels], dict[str, Tensor]]
"""From logits and the batch's labels to the parts of the loss by name, `loss` being the one to minimise."""


@dataclass(frozen=True)
class Measure:
    """A metric, and what it compares."""

    metric: Metric
    compares: Callable[[Tensor, Labels], tuple[Tensor, ...]]
    """From logits and the batch's labels to the arguments of the metric's update."""


def with_targets(metric: Metric) -> Measure:
    """A metric of the logits against the targets."""
    return Measure(metric, lambda logits, labels: (logits, labels.targets))


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
        waveform_augmentations: Sequence[WaveformAugmentation] = (),
        feature_augmentations: Sequence[FeatureAugmentation] = (),
        generators: Mapping[str, np.random.Generator] | None = None,
    ) -> None:
        super().__init__()
        self.classifier, self.loss, self.optimizer = classifier, loss, optimizer
        self.measures, self.score_name = dict(measures), next(iter(measures))
        self.metrics = nn.ModuleDict(
            {name: measure.metric for name, measure in measures.items()}
        )  # moved with the network
        self.waveform_augmentations, self.feature_augmentations = (
            waveform_augmentations,
            feature_augmentations,
        )
        self.generators = dict(generators or {})

    def forward(self, waveform: Tensor) -> Tensor:
        return self.classifier(waveform)

    def training_step(self, batch: ClipBatch, batch_index: int) -> Tensor:
        if isinstance(batch, WaveformBatch):
            for augment_waveforms in self.waveform_augmentations:
                batch = augment_waveforms(batch)
        batch = with_features(batch, self.classifier.features)
        for augment in self.feature_augmentations:
            batch = augment(batch)
        logits = self.classifier.network(batch.features)
        return self._logged_loss("train", logits, batch.labels)

    def validation_step(self, batch: ClipBatch, batch_index: int) -> None:
        features = with_features(batch, self.classifier.features).features
        logits = in_parts(self.classifier.network, features)
        self._logged_loss("val", logits, batch.labels)
        for name, measure in self.measures.items():
            measure.metric.update(*measure.compares(logits, batch.labels))
            self.log(f"val/{name}", measure.metric, on_step=False, on_epoch=True, batch_size=len(logits))

    def _logged_loss(self, phase: str, logits: Tensor, labels: Labels) -> Tensor:
        parts = self.loss(logits, labels)
        for name, part in parts.items():
            self.log(
                f"{phase}/{name}",
                part.detach(),
                on_step=False,
                on_epoch=True,
                batch_size=len(logits),
                sync_dist=True,
            )
        return parts["loss"]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return self.optimizer(self.classifier.network)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what rebuilds the classifier, and every generator's place,
        so that a resumed run draws what it would have."""
        checkpoint[MODEL_KEY] = self.classifier.description.as_dict()
        checkpoint["generators"] = generator_states(self.generators)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        restore_generators(self.generators, checkpoint["generators"], process=self.global_rank)
