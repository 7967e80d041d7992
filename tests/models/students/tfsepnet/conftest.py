"""What the tests of networks share."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from adaptf.models.students.tfsepnet.network import TfSepNet


@pytest.fixture
def as_trained() -> Callable[..., TfSepNet]:
    """Networks with statistics and weights of normalizations that differ from channel to channel,
    as after training."""

    def network_of(**shape: int) -> TfSepNet:
        torch.manual_seed(0)
        network = TfSepNet(classes=10, **shape).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
        return network

    return network_of
