"""The stem's channels brought to one range."""

import pytest
import torch
from torch import nn

from adaptf.models.students.tfsepnet.equalization import QUIETEST_SHARE, equalize_stem
from adaptf.models.students.tfsepnet.network import TfSepNet
from adaptf.models.students.tfsepnet.served import served

pytestmark = pytest.mark.arithmetic


def test_every_channel_reaches_one_and_the_logits_stay() -> None:
    torch.manual_seed(0)
    network = TfSepNet(classes=4, width=8, depth=4).eval()
    nn.init.uniform_(network.stem[0].norm.weight, 0.1, 5)
    clips = torch.randn(6, 1, 32, 32)
    form = served(network)
    with torch.no_grad():
        before = form(clips)
        equalize_stem(form, clips.split(2))
        torch.testing.assert_close(form(clips), before, rtol=1e-4, atol=1e-4)
        maxima = form.stem[0](clips).amax(dim=(0, 2, 3))
    torch.testing.assert_close(maxima, torch.ones(4))


def test_a_channel_that_is_never_heard_is_not_brought_up() -> None:
    torch.manual_seed(0)
    form = served(TfSepNet(classes=4, width=8, depth=2))
    form.stem[0].norm.weight.data[0] = 0
    form.stem[0].norm.bias.data[0] = 1e-4
    clips = [torch.randn(2, 1, 32, 32)]
    loudest = form.stem[0](clips[0]).max().item()
    equalize_stem(form, clips)
    torch.testing.assert_close(form.stem[0].norm.bias.data[0].item(), 1e-4 / (QUIETEST_SHARE * loudest))
