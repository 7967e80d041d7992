"""What a data loader hands to the training step."""

from typing import NamedTuple

from torch import Tensor

from adaptf.audio.mixup import MixDraw


class ClipBatch(NamedTuple):
    """Clips with all that belongs to them, row by row."""

    x: Tensor
    """Waveforms (batch, samples), log-mels (batch, 1, bands, frames) once the features are taken."""
    targets: Tensor
    """Soft targets (batch, classes)."""
    teacher_logits: Tensor
    """(batch, teachers, classes); no teachers is an axis of length 0."""
    device: Tensor
    """(batch,) place of the recording device in the data's device names."""
    row: Tensor
    """(batch,) place of each clip in the clip set."""
    unmixed_teachers: MixDraw | None = None
    """Set by mixup where `x` and `targets` are mixed but the teachers' logits are not."""
    has_features: bool = False
    """Whether `x` holds log-mels already."""
