"""What a training minimises, and what is measured on validation clips."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from adaptf.evaluation.scores import Score
from adaptf.pipeline.artifacts import AUDIOSET_KIND, SCENES_KIND
from adaptf.training.augmentation import MixedTeachers
from adaptf.training.losses import cross_entropy, multi_label_loss
from adaptf.training.metrics import MacroAccuracy, MeanAveragePrecision, MeanDPrime
from adaptf.training.task import Loss, Measure, with_targets


@dataclass(frozen=True)
class Objective:
    """What is minimised, and what is measured on validation clips."""

    loss: Loss
    measures: Callable[[int, int, Score], Mapping[str, Measure]]
    """From the numbers of classes and devices; the first one's score chooses the checkpoint."""
    mixed_teachers: MixedTeachers = "logits"
    """What mixup does to teachers."""


def scene_measures(classes: int, devices: int, score: Score) -> dict[str, Measure]:
    """The accuracy that chooses, as `accuracy`, and the other one by its name."""
    plain = with_targets(MacroAccuracy(classes))
    mean = Measure(
        MacroAccuracy(classes, devices), lambda logits, labels: (logits, labels.targets, labels.device)
    )
    if score == "plain":
        return {"accuracy": plain, "accuracy_mean_over_devices": mean}
    return {"accuracy": mean, "accuracy_over_all_clips": plain}


def _label_measures(classes: int, devices: int, score: Score) -> dict[str, Measure]:
    """AudioSet's mean average precision and d-prime, of clips without devices."""
    return {
        "mean_average_precision": with_targets(MeanAveragePrecision(classes)),
        "d_prime": with_targets(MeanDPrime(classes)),
    }


SCENES = Objective(lambda logits, labels: {"loss": cross_entropy(logits, labels.targets)}, scene_measures)
LABELS = Objective(lambda logits, labels: {"loss": multi_label_loss(logits, labels.targets)}, _label_measures)
OBJECTIVES = {SCENES_KIND: SCENES, AUDIOSET_KIND: LABELS}
"""By the kind of data: a clip has one scene, or several labels."""
