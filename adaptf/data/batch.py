"""What a data loader hands to the training step."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptf.audio.mixup import MixDraw


class Labels(NamedTuple):
    """What is known of clips beside their sound, row by row."""

    targets: Tensor
    """Soft targets (batch, classes)."""
    teacher_logits: Tensor
    """(batch, teachers, classes); no teachers is an axis of length 0."""
    device: Tensor
    """(batch,) place of the recording device in the data's device names."""
    row: NDArray[np.int64]
    """(batch,) place of each clip in the clip set;
    no tensor, for it stays with the process wherever the batch goes."""
    unmixed_teachers: MixDraw | None = None
    """Set by mixup where inputs and `targets` are mixed but the teachers' logits are not."""


class WaveformBatch(NamedTuple):
    """Clips as they sound."""

    waveforms: Tensor
    """(batch, samples)"""
    labels: Labels


class FeatureBatch(NamedTuple):
    """Clips as a network takes them."""

    features: Tensor
    """Log-mels (batch, 1, bands, frames), or whatever else is the network's input,
    such as embeddings (batch, dim)."""
    labels: Labels


ClipBatch = WaveformBatch | FeatureBatch


def with_features(batch: ClipBatch, transform: Callable[[Tensor], Tensor]) -> FeatureBatch:
    """The batch with the features of its waveforms, through which no gradient flows;
    as it is where it has features."""
    if isinstance(batch, FeatureBatch):
        return batch
    with torch.no_grad():
        return FeatureBatch(transform(batch.waveforms), batch.labels)
