"""Weights between those of two models."""

import copy

import pytest
import torch

from adaptf.mlproject.config import MelConfig, ModelConfig
from adaptf.mlproject.fitting import tfsepnet_description
from adaptf.models.classifier import Classifier, build_classifier
from adaptf.models.interpolation import interpolated


@pytest.fixture(scope="module")
def ends() -> tuple[Classifier, Classifier]:
    """Two models of one kind, the second of which has heard batches."""
    torch.manual_seed(0)
    description = tfsepnet_description(("airport", "bus"), MelConfig(bands=64), ModelConfig(width=8))
    start, tuned = build_classifier(description), build_classifier(description)
    tuned.train()
    tuned.network(torch.randn(4, 1, 64, 65))
    return start.eval(), tuned.eval()


@pytest.mark.parametrize("end", [0, 1])
def test_the_ends_are_the_models_themselves(end: int, ends: tuple[Classifier, Classifier]) -> None:
    before = copy.deepcopy(ends[end].network.state_dict())
    found = interpolated(*ends, float(end)).network.state_dict()
    assert all(torch.equal(found[name], before[name]) for name in before)
    assert all(torch.equal(ends[end].network.state_dict()[name], before[name]) for name in before)


def test_weights_and_batch_statistics_lie_between(ends: tuple[Classifier, Classifier]) -> None:
    start, tuned = (one.network.state_dict() for one in ends)
    found = interpolated(*ends, 0.25).network.state_dict()
    names = [name for name in found if found[name].is_floating_point()]
    assert {name.rpartition(".")[2] for name in names} >= {"weight", "bias", "running_mean", "running_var"}
    for name in names:
        torch.testing.assert_close(found[name], 0.75 * start[name] + 0.25 * tuned[name])


def test_a_share_beyond_the_ends_is_refused(ends: tuple[Classifier, Classifier]) -> None:
    with pytest.raises(ValueError, match=r"between 0, the start, and 1, the tuned model, got 1\.5"):
        interpolated(*ends, 1.5)
