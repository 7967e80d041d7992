"""Checkpoints of the public reference trainer (easy_dcase_task1): their keys, in our names."""

import re

from torch import Tensor

CLASSES = (
    "airport", "bus", "metro", "metro_station", "park",
    "public_square", "shopping_mall", "street_pedestrian", "street_traffic", "tram",
)  # fmt: skip
"""In the order of the logits. The trainer sorts the scenes' names; its checkpoints hold neither names nor mel
bands."""
_PREFIX = "backbone."
_RENAMES = (
    (r"^conv_layers\.", "stem."),
    (r"^middle_layers\.", "body."),
    (r"\btrans_conv\b", "transition"),
    (r"\bfreq_dw_conv\b", "frequency_depthwise"),
    (r"\bfreq_pw_conv\b", "frequency_pointwise"),
    (r"\btemp_dw_conv\b", "time_depthwise"),
    (r"\btemp_pw_conv\b", "time_pointwise"),
    (r"\b_conv\.", "conv."),
    (r"\b_bn\.", "norm."),
    (r"^classifier\.conv\.", "classifier."),
)


def is_public(state: dict[str, Tensor]) -> bool:
    """Whether a state dict has the key layout of the public trainer."""
    return any(key.startswith(_PREFIX + "conv_layers.") for key in state)


def from_public(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors under the names of `TfSepNet`; whatever else the trainer kept is left out."""
    converted = {}
    for key, tensor in state.items():
        if key.startswith(_PREFIX):
            name = key.removeprefix(_PREFIX)
            for pattern, replacement in _RENAMES:
                name = re.sub(pattern, replacement, name)
            converted[name] = tensor
    return converted
