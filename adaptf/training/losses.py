"""Losses over soft targets; each returns its parts by name, `loss` being the one to minimise."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from adaptf.audio.mixup import MixDraw
from adaptf.audio.on_device import moved

KlReduction = Literal["elements", "clips"]
"""`elements` averages KL over clips *and* classes: the published weight 0.02 was tuned with it. `clips`
averages over clips alone and is ten times as large for ten classes."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (batch, classes) with soft targets (batch, classes)."""
    return F.cross_entropy(logits, targets)


def multi_label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits (batch, classes) with labels of which several may hold."""
    return F.binary_cross_entropy_with_logits(logits, targets)


def mean_of_teachers(teacher_logits: Tensor) -> Tensor:
    """(batch, classes) of logits (batch, teachers, classes)."""
    # Rounded teacher by teacher, as trainings before were: a mean() ends them in other weights.
    return (teacher_logits * (1 / teacher_logits.shape[1])).sum(dim=1)


def kl_divergence(student: Tensor, teacher: Tensor, *, temperature: float, reduction: KlReduction) -> Tensor:
    """T^2 KL(teacher || student) of logits (batch, classes) softened by the temperature T (Hinton et al.,
    2015)."""
    divergence = F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(teacher / temperature, dim=1),
        reduction="none",
        log_target=True,
    )
    mean = divergence.mean() if reduction == "elements" else divergence.sum(dim=1).mean()
    return temperature**2 * mean


@dataclass(frozen=True)
class DistillationLoss:
    """weight * cross-entropy + (1 - weight) * T^2 KL with the mean of the teachers' logits (the report,
    equation 1)."""

    temperature: float
    weight: float
    reduction: KlReduction

    def parts(
        self,
        student: Tensor,
        targets: Tensor,
        teacher_logits: Tensor,
        unmixed_teachers: MixDraw | None = None,
    ) -> dict[str, Tensor]:
        """`loss`, `label_loss` and `distillation_loss`.

        From logits (batch, classes), targets (batch, classes) and teacher logits (batch, teachers, classes),
        all three of them mixed by mixup where there is any (the report, equation 4). With `unmixed_teachers`
        the teachers' logits are still those of the single clips,
        and the two divergences are mixed instead: the public trainer's form.
        """
        label_loss = cross_entropy(student, targets)
        teacher = mean_of_teachers(teacher_logits)
        if unmixed_teachers is None:
            distillation_loss = self._kl(student, teacher)
        else:
            share, partner = unmixed_teachers.own_share, moved(unmixed_teachers.partner, student.device)
            distillation_loss = share * self._kl(student, teacher) + (1 - share) * self._kl(
                student, teacher[partner]
            )
        loss = self.weight * label_loss + (1 - self.weight) * distillation_loss
        return {"loss": loss, "label_loss": label_loss, "distillation_loss": distillation_loss}

    def _kl(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kl_divergence(student, teacher, temperature=self.temperature, reduction=self.reduction)
