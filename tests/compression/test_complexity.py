"""Costs of the network that the challenge admits, and of those that it does not."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from adaptf.audio.logmel import LogMel
from adaptf.compression.complexity import (
    MAX_BYTES,
    MAX_MACS,
    Complexity,
    clip_complexity,
    measure_complexity,
    over_budget,
)
from adaptf.errors import UserError
from adaptf.models.classifier import Classifier, ModelDescription
from adaptf.models.students.tfsepnet.network import TfSepNet


def small_network() -> TfSepNet:
    return TfSepNet(classes=3, width=8, depth=3)


def test_the_published_network_costs_the_published_figures() -> None:
    complexity = measure_complexity(TfSepNet(classes=10), bands=512, frames=64)
    assert complexity == Complexity(
        bands=512,
        frames=64,
        parameters=126_858,
        macs=29_419_648,
        model_bytes=126_868,
    )
    assert over_budget(complexity) == []


def test_a_65th_frame_breaks_the_limit_on_operations() -> None:
    (message,) = over_budget(measure_complexity(TfSepNet(classes=10), bands=512, frames=65))
    assert "30,740,608" in message and "30,000,000" in message


def test_a_wider_network_breaks_both_limits() -> None:
    messages = over_budget(measure_complexity(TfSepNet(classes=10, width=72), bands=512, frames=64))
    assert len(messages) == 2
    assert "bytes" in messages[0] and "128,000" in messages[0]


def test_the_limits_themselves_are_allowed() -> None:
    complexity = measure_complexity(small_network(), bands=16, frames=16)
    at_limit = replace(complexity, macs=MAX_MACS, model_bytes=MAX_BYTES)
    assert over_budget(at_limit) == []


def test_normalization_is_folded_into_one_bias_per_channel() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False))
    complexity = measure_complexity(network, bands=8, frames=8)
    assert complexity.parameters == 4 * 9 + 4 + 2 * 4 + 8
    assert complexity.model_bytes == (4 * 9 + 8) + 2 * 4


@pytest.mark.parametrize("stranger", [nn.LayerNorm(8), nn.Linear(8, 8), nn.PReLU(), nn.BatchNorm2d(4)])
def test_parameters_of_unknown_storage_are_refused(stranger: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), stranger)
    with pytest.raises(ValueError, match=f"2 \\({type(stranger).__name__}\\) has the parameters"):
        measure_complexity(network, bands=8, frames=8)


def test_measuring_leaves_network_and_random_numbers_as_they_were() -> None:
    network = small_network().train()
    network.stem.eval()
    modes = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random_state = torch.get_rng_state()
    measure_complexity(network, bands=16, frames=16)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_log_mel_with_a_frame_too_many_is_refused():
    class Centred(LogMel):
        def forward(self, waveform):
            return nn.functional.pad(super().forward(waveform), (0, 1))

    def classifier(features):
        return Classifier(ModelDescription("tfsepnet", ("a", "b")), features, TfSepNet(classes=2, width=4))

    assert clip_complexity(classifier(LogMel(bands=64)), 32000).frames == 64
    with pytest.raises(
        UserError, match=r"a clip of 32,000 samples has 65 frames of 500 samples, 64 are right"
    ):
        clip_complexity(classifier(Centred(bands=64)), 32000)
