import io

import pytest
import torch
from torch import Tensor, nn

from adaptf.errors import UserError
from adaptf.models.teachers.cp_resnet import CpResNet

pytestmark = pytest.mark.arithmetic


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("bands", "frames"), [(32, 32), (64, 64), (100, 65), (256, 64)])
def test_a_log_mel_gives_a_logit_per_class(bands: int, frames: int) -> None:
    assert CpResNet(classes=10, width=4)(noise(2, 1, bands, frames)).shape == (2, 10)


def test_the_parameters_of_the_published_width_are_those_of_its_layers() -> None:
    stages = 56 * 128**2 + (2 * 128 + 7 * 256) * 256 + (2 * 256 + 7 * 512) * 512
    convolutions = 25 * 128 + stages + 512 * 10
    normalizations = 2 * (128 + 8 * (128 + 256 + 512) + 256 + 512 + 10)
    network = CpResNet(classes=10, width=128, rho=5)
    parameters = sum(weight.numel() for weight in network.parameters())
    assert parameters == convolutions + normalizations == 3_563_412


@pytest.mark.parametrize(
    ("rho", "field"),
    [(0, 23), (1, 31), (2, 39), (3, 55), (4, 71), (5, 87), (6, 103), (7, 135), (8, 167)],
)
def test_rho_makes_the_published_receptive_field_over_bands_and_frames(rho: int, field: int) -> None:
    """Max pools pass one place alone, so means stand in for them;
    equal weights let no path cancel another."""
    network = CpResNet(classes=2, width=1, rho=rho).double().eval()
    for name, module in network.body.named_children():
        if isinstance(module, nn.MaxPool2d):
            setattr(network.body, name, nn.AvgPool2d(2))
    for weight in network.parameters():
        nn.init.ones_(weight)
    size = field + 40
    clip = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    cells = network.body(network.stem(clip))
    cells[0, 0, cells.shape[2] // 2, cells.shape[3] // 2].backward()
    assert clip.grad is not None
    heard = clip.grad[0, 0] != 0
    assert (int(heard.any(dim=1).sum()), int(heard.any(dim=0).sum())) == (field, field)


def test_every_weight_learns() -> None:
    network = CpResNet(classes=10, width=4)
    nn.functional.cross_entropy(network(noise(4, 1, 64, 64)), torch.arange(4)).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


def test_a_clip_gets_the_same_logits_alone_and_in_a_batch() -> None:
    network, clips = CpResNet(classes=10, width=4).eval(), noise(3, 1, 64, 64)
    torch.testing.assert_close(network(clips)[1:2], network(clips[1:2]), atol=1e-4, rtol=1e-4)


def test_saved_weights_give_the_same_logits() -> None:
    network, rebuilt = (CpResNet(classes=10, width=4, rho=3).eval() for _ in range(2))
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    buffer.seek(0)
    rebuilt.load_state_dict(torch.load(buffer, weights_only=True))
    clips = noise(2, 1, 64, 64)
    torch.testing.assert_close(rebuilt(clips), network(clips), atol=0, rtol=0)


@pytest.mark.parametrize("shape", [(2, 64, 64), (2, 2, 64, 64), (2, 1, 31, 64), (2, 1, 64, 31)])
def test_a_log_mel_of_another_shape_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(batch, 1, bands, frames\), 32 bands and frames up, got \(2, "):
        CpResNet(classes=10, width=4)(torch.zeros(shape))


@pytest.mark.parametrize(("classes", "width"), [(0, 32), (10, 0)])
def test_settings_below_one_are_refused_with_their_values(classes: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"got {classes} and {width}"):
        CpResNet(classes=classes, width=width)


@pytest.mark.parametrize("rho", [-1, 23])
def test_a_rho_that_there_is_not_is_refused(rho: int) -> None:
    with pytest.raises(UserError, match=f"rho is {rho}: it should be from 0 to 22"):
        CpResNet(classes=10, rho=rho)
