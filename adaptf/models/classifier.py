"""A classifier of waveforms: features and a network, rebuildable from plain values and tensors."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from adaptf.audio.logmel import LogMel
from adaptf.models.students.tfsepnet.network import TfSepNet
from adaptf.models.teachers.beats import BeatsClassifier, BeatsEncoder, BeatsFeatures
from adaptf.models.teachers.small_cnn import SmallCnnTeacher

TFSEPNET, SMALL_CNN, BEATS = "tfsepnet", "small_cnn", "beats"


@dataclass(frozen=True)
class ModelDescription:
    """All that is needed to build a classifier, kept beside its weights."""

    kind: str
    """tfsepnet, small_cnn or beats."""
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
    """Waveform (batch, samples) -> logits (batch, classes); augmentations act between `features` and `network`."""

    def __init__(self, description: ModelDescription, features: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.description, self.features, self.network = description, features, network

    def forward(self, waveform: Tensor) -> Tensor:
        return self.network(self.features(waveform))


def build_classifier(description: ModelDescription) -> Classifier:
    """A classifier with fresh weights. Raises ValueError for an unknown kind."""
    classes = len(description.classes)
    if description.kind == TFSEPNET:
        network: nn.Module = TfSepNet(classes=classes, **description.network)
        return Classifier(description, LogMel(**description.features), network)
    if description.kind == SMALL_CNN:
        network = SmallCnnTeacher(classes=classes, **description.network)
        return Classifier(description, LogMel(**description.features), network)
    if description.kind == BEATS:
        settings = dict(description.network)
        network = BeatsClassifier(BeatsEncoder(settings["encoder"]), classes=classes, freeze_encoder=settings["freeze_encoder"])
        return Classifier(description, BeatsFeatures(**description.features), network)
    raise ValueError(f"model kind '{description.kind}' is unknown; there are {TFSEPNET}, {SMALL_CNN} and {BEATS}")
