"""Metrics that are gathered over the batches and processes of an epoch."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MultilabelAUROC, MultilabelAveragePrecision


def _d_prime(area: Tensor) -> Tensor:
    """The distance of two normal distributions of deviation 1 that have this area under the ROC curve.

    An area of 1 would be infinitely far: it counts as 0.999999.
    """
    return math.sqrt(2) * torch.special.ndtri(area.clamp(max=1 - 1e-6))


class MacroAccuracy(Metric):
    """The challenge's metric: the mean of the scenes' accuracies.

    From logits (batch, classes) and soft targets (batch, classes). With `devices` it is the mean over them of
    each one's own, which takes the clips' places among them (batch,).
    Scenes and devices without clips are left out of their mean.
    """

    def __init__(self, classes: int, devices: int = 1) -> None:
        super().__init__()
        self.right: Tensor
        self.clips: Tensor
        for name in ("right", "clips"):
            self.add_state(name, torch.zeros(devices, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor, device: Tensor | None = None) -> None:
        scene = targets.argmax(dim=1)
        cell = scene if device is None else device * self.clips.shape[1] + scene
        for counts, rows in ((self.clips, cell), (self.right, cell[logits.argmax(dim=1) == scene])):
            counts += torch.bincount(rows, minlength=counts.numel()).reshape(counts.shape)

    def compute(self) -> Tensor:
        return (self.right / self.clips).nanmean(dim=1).nanmean()


class TeacherAgreement(Metric):
    """Share of the clips on whose class two models agree, from logits (batch, classes) of each."""

    def __init__(self) -> None:
        super().__init__()
        self.agreed: Tensor
        self.clips: Tensor
        self.add_state("agreed", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("clips", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, teacher_logits: Tensor) -> None:
        self.agreed += (logits.argmax(dim=1) == teacher_logits.argmax(dim=1)).sum()
        self.clips += len(logits)

    def compute(self) -> Tensor:
        return self.agreed / self.clips


class _LabelMetric(Metric):
    """A metric per class of torchmetrics, from logits (batch, classes) and labels (batch, classes)."""

    def __init__(self, classes: int, per_class: Metric) -> None:
        super().__init__()
        self.per_class = per_class
        self.clips: Tensor
        self.positives: Tensor
        self.add_state("clips", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("positives", torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        # torchmetrics takes logits for probabilities in a batch that has none outside of [0, 1]; half
        # precision would tie them.
        self.per_class.update(logits.float().sigmoid(), targets.long())
        self.clips += len(targets)
        self.positives += targets.long().sum(dim=0)

    def reset(self) -> None:
        super().reset()
        self.per_class.reset()


class MeanAveragePrecision(_LabelMetric):
    """AudioSet's metric: the mean over the classes that have a positive clip."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, MultilabelAveragePrecision(classes, average="none"))

    def compute(self) -> Tensor:
        return self.per_class.compute()[self.positives > 0].mean()


class MeanDPrime(_LabelMetric):
    """AudioSet's d-prime (Hershey et al., 2017):
    that of the mean area under the ROC curve, not the mean of d-primes.

    The mean is over the classes that have both a positive and a negative clip.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes, MultilabelAUROC(classes, average="none"))

    def compute(self) -> Tensor:
        judged = (self.positives > 0) & (self.positives < self.clips)
        return _d_prime(self.per_class.compute()[judged].mean())
