"""Teachers that hear each batch as the student does, instead of the clean clips."""

from collections.abc import Sequence

import torch
from torch import nn

from adaptf.data.batch import WaveformBatch
from adaptf.training.augmentation import WaveformAugmentation


def online_teachers(teachers: Sequence[nn.Module]) -> WaveformAugmentation:
    """Replaces a batch's teacher logits by those of its augmented waveforms (Beyer et al., 2022).

    The teachers take waveforms (batch, samples) and give logits (batch, classes); they stay as they are and are no part of the
    student's checkpoint.
    """
    for teacher in teachers:
        teacher.eval().requires_grad_(False)

    def augment(batch: WaveformBatch) -> WaveformBatch:
        with torch.no_grad():
            logits = [teacher.to(batch.waveforms.device)(batch.waveforms).float() for teacher in teachers]
        return batch._replace(labels=batch.labels._replace(teacher_logits=torch.stack(logits, dim=1)))

    return augment
