"""Augmentations of batches: each takes a batch and returns one, so that a step applies a list of them."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptf.audio.band_matching import BandMatching
from adaptf.audio.impulse_response import DeviceImpulseResponse
from adaptf.audio.mixup import Mixup, mix
from adaptf.data.batch import FeatureBatch, WaveformBatch

WaveformAugmentation = Callable[[WaveformBatch], WaveformBatch]
FeatureAugmentation = Callable[[FeatureBatch], FeatureBatch]
MixedTeachers = Literal["logits", "terms"]
"""`logits`: the teachers' logits are mixed (the report). `terms`:
the loss mixes two divergences (the public trainer)."""


def on_features(transform: Callable[[Tensor], Tensor]) -> FeatureAugmentation:
    """A transform that keeps the shape of features."""
    return lambda batch: batch._replace(features=transform(batch.features))


def impulse_responses(
    transform: DeviceImpulseResponse, *, p_of_clip: NDArray[np.float64]
) -> WaveformAugmentation:
    """With a probability for each row of the clip set, none higher than the transform's own."""
    p = torch.from_numpy(p_of_clip)
    return lambda batch: batch._replace(waveforms=transform(batch.waveforms, p[batch.labels.row]))


def band_matching(transform: BandMatching) -> FeatureAugmentation:
    """On log-mels: each by its device."""
    return lambda batch: batch._replace(features=transform(batch.features, batch.labels.device))


def soft_mixup(transform: Mixup, *, teachers: MixedTeachers = "logits") -> FeatureAugmentation:
    """On features: inputs, targets and teachers' logits share one draw (the report, equations 2 to 4)."""

    def augment(batch: FeatureBatch) -> FeatureBatch:
        labels, draw = batch.labels, transform.draw(len(batch.features))
        if draw is None:
            return batch
        mixed = labels._replace(targets=mix(labels.targets, draw))
        if teachers == "terms":
            mixed = mixed._replace(unmixed_teachers=draw)
        else:
            mixed = mixed._replace(teacher_logits=mix(labels.teacher_logits, draw))
        return FeatureBatch(mix(batch.features, draw), mixed)

    return augment
