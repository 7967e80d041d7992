"""Metrics that are gathered over the batches and processes of an epoch."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix, MultilabelAUROC, MultilabelAveragePrecision


def macro_accuracy(confusion: Tensor) -> Tensor:
    """Mean over the scenes that occur of the share of their clips that were recognised; confusion (scenes, predicted)."""
    support = confusion.sum(dim=1)
    occurs = support > 0
    return (confusion.diagonal()[occurs] / support[occurs]).mean() if occurs.any() else torch.tensor(torch.nan)


def d_prime(area: Tensor) -> Tensor:
    """The distance of two normal distributions of deviation 1 that have this area under the ROC curve.

    An area of 1 would be infinitely far: it counts as 0.999999.
    """
    return math.sqrt(2) * torch.special.ndtri(area.clamp(max=1 - 1e-6))


class MacroAccuracy(Metric):
    """The challenge's metric, from logits (batch, classes) and soft targets (batch, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.confusion = MulticlassConfusionMatrix(classes)

    def update(self, logits: Tensor, targets: Tensor) -> None:
        self.confusion.update(logits.argmax(dim=1), targets.argmax(dim=1))

    def compute(self) -> Tensor:
        return macro_accuracy(self.confusion.compute())

    def reset(self) -> None:
        super().reset()
        self.confusion.reset()


class Agreement(Metric):
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


class LabelMetric(Metric):
    """A metric per class of torchmetrics, from logits (batch, classes) and labels (batch, classes)."""

    def __init__(self, classes: int, per_class: Metric) -> None:
        super().__init__()
        self.per_class = per_class
        self.clips: Tensor
        self.positives: Tensor
        self.add_state("clips", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("positives", torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        # torchmetrics takes logits for probabilities in a batch that has none outside of [0, 1]; half precision would tie them.
        self.per_class.update(logits.float().sigmoid(), targets.long())
        self.clips += len(targets)
        self.positives += targets.long().sum(dim=0)

    def reset(self) -> None:
        super().reset()
        self.per_class.reset()


class MeanAveragePrecision(LabelMetric):
    """AudioSet's metric: the mean over the classes that have a positive clip."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, MultilabelAveragePrecision(classes, average="none"))

    def compute(self) -> Tensor:
        return self.per_class.compute()[self.positives > 0].mean()


class MeanDPrime(LabelMetric):
    """AudioSet's d-prime (Hershey et al., 2017): that of the mean area under the ROC curve, not the mean of d-primes.

    The mean is over the classes that have both a positive and a negative clip.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes, MultilabelAUROC(classes, average="none"))

    def compute(self) -> Tensor:
        judged = (self.positives > 0) & (self.positives < self.clips)
        return d_prime(self.per_class.compute()[judged].mean())
