"""Metrics that are gathered over the batches and processes of an epoch."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix, MultilabelAveragePrecision


def macro_accuracy(confusion: Tensor) -> Tensor:
    """Mean over the scenes that occur of the share of their clips that were recognised; confusion (scenes, predicted)."""
    support = confusion.sum(dim=1)
    occurs = support > 0
    return (confusion.diagonal()[occurs] / support[occurs]).mean() if occurs.any() else torch.tensor(torch.nan)


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


class MeanAveragePrecision(Metric):
    """AudioSet's metric over the classes that occur, from logits (batch, classes) and labels (batch, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.precision = MultilabelAveragePrecision(classes, average="none")
        self.occurs: Tensor
        self.add_state("occurs", torch.zeros(classes, dtype=torch.bool), dist_reduce_fx="max")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        self.precision.update(logits, targets.long())
        self.occurs |= targets.any(dim=0)

    def compute(self) -> Tensor:
        return self.precision.compute()[self.occurs].mean()

    def reset(self) -> None:
        super().reset()
        self.precision.reset()
