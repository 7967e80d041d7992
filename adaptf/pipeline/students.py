"""From the settings of stages to the student that they train."""

from collections.abc import Sequence
from dataclasses import asdict

from adaptf.models.classifier import ModelDescription
from adaptf.models.students.tfsepnet.public_checkpoint import CLASSES
from adaptf.pipeline.config import MelConfig, ModelConfig


def student_description(
    classes: Sequence[str], mel: MelConfig = MelConfig(), model: ModelConfig = ModelConfig()
) -> ModelDescription:
    """The student for these classes; TF-SepNet of the report's size where nothing else is said."""
    return ModelDescription(
        kind=model.kind, classes=tuple(classes), features=asdict(mel), network=model.network_settings()
    )


PUBLIC = student_description(CLASSES)
"""What a checkpoint of the public trainer is taken for, which does not say it: its own published settings."""
