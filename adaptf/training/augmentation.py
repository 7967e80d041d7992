"""Augmentations of batches: each takes a ClipBatch and returns one, so that a step applies a list of them."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from adaptf.audio.band_matching import BandMatching
from adaptf.audio.freq_mixstyle import FreqMixStyle
from adaptf.audio.impulse_response import DeviceImpulseResponse
from adaptf.audio.mixup import Mixup, mix
from adaptf.audio.spec_augment import SpecAugment
from adaptf.audio.time_roll import TimeRoll
from adaptf.data.batch import ClipBatch

Augmentation = Callable[[ClipBatch], ClipBatch]
MixedTeachers = Literal["logits", "terms"]
"""`logits`: the teachers' logits are mixed (the report). `terms`: the loss mixes two divergences (the public trainer)."""


def impulse_responses(transform: DeviceImpulseResponse, *, p_of_device: Sequence[float]) -> Augmentation:
    """On waveforms, with a probability for each of the data's device names, none higher than the transform's own."""
    p = torch.tensor(list(p_of_device), dtype=torch.float64)
    return lambda batch: batch._replace(x=transform(batch.x, p[batch.device.cpu()]))


def time_roll(transform: TimeRoll) -> Augmentation:
    """On waveforms."""
    return lambda batch: batch._replace(x=transform(batch.x))


def band_matching(transform: BandMatching) -> Augmentation:
    """On log-mels: each by its device."""
    return lambda batch: batch._replace(x=transform(batch.x, batch.device))


def freq_mixstyle(transform: FreqMixStyle) -> Augmentation:
    """On log-mels."""
    return lambda batch: batch._replace(x=transform(batch.x))


def spec_augment(transform: SpecAugment) -> Augmentation:
    """On features: log-mels or filterbank energies."""
    return lambda batch: batch._replace(x=transform(batch.x))


def soft_mixup(transform: Mixup, *, teachers: MixedTeachers = "logits") -> Augmentation:
    """On log-mels: inputs, targets and teachers' logits share one draw (the report, equations 2 to 4)."""

    def augment(batch: ClipBatch) -> ClipBatch:
        draw = transform.draw(len(batch.x))
        if draw is None:
            return batch
        mixed = batch._replace(x=mix(batch.x, draw), targets=mix(batch.targets, draw))
        if teachers == "terms":
            return mixed._replace(unmixed_teachers=draw)
        return mixed._replace(teacher_logits=mix(batch.teacher_logits, draw))

    return augment
