"""Weights between those of two models: a fine-tuned one drawn back towards where it started."""

import copy

import torch

from adaptf.models.classifier import Classifier


@torch.no_grad()
def interpolated(start: Classifier, tuned: Classifier, tuned_share: float) -> Classifier:
    """start + tuned_share * (tuned - start), for every weight and every statistic of batch normalization, on the CPU.

    Two models that differ by a fine-tuning lie in one basin, and between them there are better ones for clips that neither
    has learnt from (Wortsman et al., 2022, Robust fine-tuning of zero-shot models). Counters are those of the nearer model.
    Raises ValueError where the share is not between 0 and 1.
    """
    if not 0 <= tuned_share <= 1:
        raise ValueError(f"it should be between 0, the start, and 1, the tuned model, got {tuned_share}")
    found = copy.deepcopy(start).cpu()
    ends = zip(found.network.state_dict().values(), tuned.network.state_dict().values(), strict=True)
    for value, other in ends:
        if value.is_floating_point():
            value.lerp_(other.to(value), tuned_share)  # exact at both ends
        elif tuned_share >= 0.5:
            value.copy_(other)
    return found
