"""A classifier of waveforms: features and a network, rebuildable from plain values and tensors."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from adaptf.audio.logmel import LogMel
from adaptf.models.students.registry import STUDENTS
from adaptf.models.teachers.registry import TEACHERS


@dataclass(frozen=True)
class ModelDescription:
    """All that is needed to build a classifier, kept beside its weights."""

    kind: str
    """A name in `STUDENTS`, or of a network of `TEACHERS`: tfsepnet, small_cnn, beats, ..."""
    classes: tuple[str, ...]
    """Class names in the order of the logits."""
    features: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the features."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the network."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint can hold them."""
        return asdict(self) | {"classes": list(self.classes)}


class Classifier(nn.Module):
    """Waveform (batch, samples) -> logits (batch, classes); augmentations act between both parts."""

    def __init__(self, description: ModelDescription, features: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.description, self.features, self.network = description, features, network

    def forward(self, waveform: Tensor) -> Tensor:
        return self.network(self.features(waveform))


def build_classifier(description: ModelDescription) -> Classifier:
    """A classifier with fresh weights. Raises ValueError for an unknown kind."""
    kinds = _kinds()
    if description.kind not in kinds:
        raise ValueError(f"model kind '{description.kind}' is unknown; there are {', '.join(kinds)}")
    features, network = kinds[description.kind]
    return Classifier(
        description,
        features(**description.features),
        network(classes=len(description.classes), **description.network),
    )


def _kinds() -> dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]]:
    """Features and network of each kind."""
    teachers = {teacher.name: (teacher.features, teacher.network) for teacher in TEACHERS.values()}
    return {**teachers, **{name: (LogMel, student.network) for name, student in STUDENTS.items()}}
