"""What a model loses that should answer like another one, such as INT8 beside float,
and how much of it is no chance."""

from dataclasses import dataclass

import pandas as pd

from adaptf.evaluation.bootstrap import SIGNIFICANT, paired_bootstrap
from adaptf.evaluation.scores import macro_accuracy


@dataclass(frozen=True)
class RelativeLoss:
    """Share of the exact model's macro-average accuracy that is lost;
    below 0 where the other one is better."""

    relative: float
    standing: float
    """The part that is no chance: the lower end of a 95 % interval over places; 0 where no loss stands."""

    def __str__(self) -> str:
        return f"a relative loss of {self.relative:.1%}, of which {self.standing:.1%} stand over places,"


def relative_loss(predictions: pd.DataFrame, exact: pd.DataFrame) -> RelativeLoss:
    """From predictions of the same clips by both models.

    Nothing stands where a scene has one place only,
    or where so few places differ that they may agree by chance.
    """
    accuracy = macro_accuracy(exact)
    if not accuracy:
        return RelativeLoss(0.0, 0.0)
    gained = paired_bootstrap([exact], [predictions])
    stands = gained.high < 0 and gained.p <= SIGNIFICANT and not gained.single_location_scenes
    return RelativeLoss(-gained.mean / accuracy, -gained.high / accuracy if stands else 0.0)
