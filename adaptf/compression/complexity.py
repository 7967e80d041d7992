"""What a network costs: parameters, operations for one clip, and bytes once it is INT8."""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torchinfo
from torch import nn

from adaptf.errors import UserError
from adaptf.models.classifier import Classifier

MAX_BYTES = 128_000
"""Limit on the parameters of one device's model (DCASE 2025, task 1)."""
MAX_MACS = 30_000_000
"""Limit on the multiply-accumulate operations for 1 s of audio (DCASE 2025, task 1)."""


@dataclass(frozen=True)
class Complexity:
    """A network's costs; `model_bytes` and `macs` are held to the challenge's limits."""

    bands: int
    """Of one clip's log-mel."""
    frames: int
    """Of one clip's log-mel. With 65 instead of 64 the operations of TF-SepNet-64 break the limit."""
    parameters: int
    """Of the float network, batch normalization included."""
    macs: int
    """Multiply-accumulates for one clip,
    as torchinfo counts them on the float network (`total_mult_adds`)."""
    model_bytes: int
    """INT8 convolution weights and FP16 biases, batch normalization folded into them.
    This is held to MAX_BYTES."""


def clip_complexity(classifier: Classifier, clip_samples: int) -> Complexity:
    """Of the network on one clip's log-mel.
    Raises UserError where that has more frames than the clip has hops."""
    features: Any = classifier.features
    with torch.no_grad():
        _, _, bands, frames = features(torch.zeros(1, clip_samples)).shape
    right = math.ceil(clip_samples / features.hop_samples)
    if frames != right:
        raise UserError(
            f"the log-mel of a clip of {clip_samples:,} samples has {frames} frames of "
            f"{features.hop_samples} samples, {right} are right: each one more costs operations that the "
            "limit does not allow"
        )
    return measure_complexity(classifier.network, bands=bands, frames=frames)


def measure_complexity(network: nn.Module, *, bands: int, frames: int) -> Complexity:
    """Costs of a network for log-mels (1, 1, bands, frames); the network is left as it was.

    Raises ValueError where the network holds parameters other than those of two-dimensional convolutions and
    of batch normalizations that follow one: how such parameters would be stored is not known.
    """
    weights, biases = _folded_parameters(network)
    clip = torch.zeros(1, 1, bands, frames)  # torchinfo's own would be drawn at random
    counted = torchinfo.summary(deepcopy(network).cpu(), input_data=clip, mode="eval", verbose=0)
    return Complexity(
        bands=bands,
        frames=frames,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        macs=counted.total_mult_adds,
        model_bytes=weights + 2 * biases,
    )


def _folded_parameters(network: nn.Module) -> tuple[int, int]:
    """Numbers of weights and biases, each batch normalization folded into the convolution before it.

    Raises ValueError for parameters of any other kind.
    """
    weights = biases = 0
    last: nn.Conv2d | None = None
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            weights += module.weight.numel()
            biases += module.out_channels if module.bias is not None else 0
            last = module
        elif (
            isinstance(module, nn.BatchNorm2d)
            and last is not None
            and last.out_channels == module.num_features
        ):
            biases += module.num_features if last.bias is None else 0
            last = None
        elif own := [key for key, _ in module.named_parameters(recurse=False)]:
            raise ValueError(
                f"{name} ({type(module).__name__}) has the parameters {', '.join(own)}: "
                "bytes are known only for Conv2d, and for BatchNorm2d of as many channels right after one"
            )
    return weights, biases


def over_budget(complexity: Complexity) -> list[str]:
    """One message for each of the challenge's limits that is broken; an empty list where all are kept."""
    return limits_broken(model_bytes=complexity.model_bytes, macs=complexity.macs)


def limits_broken(*, model_bytes: int, macs: int) -> list[str]:
    """One message for each of the challenge's limits that these figures break."""
    limits = (("bytes of parameters", model_bytes, MAX_BYTES), ("multiply-accumulates", macs, MAX_MACS))
    return [
        f"{figure:,} {unit}, at most {limit:,} allowed" for unit, figure, limit in limits if figure > limit
    ]
