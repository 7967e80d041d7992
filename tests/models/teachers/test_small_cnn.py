import io

import pytest
import torch
from torch import Tensor, nn

from adaptf.models.teachers.small_cnn import SmallCnnTeacher


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bands", [64, 100, 256, 512])
@pytest.mark.parametrize("frames", [64, 65])
def test_log_mel_of_64_to_512_bands_gives_a_logit_per_class(bands: int, frames: int) -> None:
    assert SmallCnnTeacher(classes=10, width=16)(noise(2, 1, bands, frames)).shape == (2, 10)


def test_the_size_is_that_of_a_small_teacher() -> None:
    parameters = sum(weight.numel() for weight in SmallCnnTeacher(classes=10).parameters())
    assert 300_000 < parameters < 1_000_000


def test_every_weight_learns() -> None:
    network = SmallCnnTeacher(classes=10, width=16)
    nn.functional.cross_entropy(network(noise(4, 1, 64, 64)), torch.arange(4)).backward()
    assert {
        name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()
    } == set()


def test_it_learns_which_band_is_loud() -> None:
    """In float64, where no processor rounds so that the training would end elsewhere."""
    torch.manual_seed(0)
    labels = torch.arange(4).repeat(8)
    clips = noise(32, 1, 64, 16).double()
    clips[torch.arange(32), 0, 16 * labels + 8] += 3.0
    network = SmallCnnTeacher(classes=4, width=16, dropout=0.0).double()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(clips), labels).backward()
        optimizer.step()
    with torch.no_grad():
        assert (network(clips).argmax(dim=1) == labels).all()


def test_a_clip_gets_the_same_logits_alone_and_in_a_batch() -> None:
    network = SmallCnnTeacher(classes=10, width=16).eval()
    clips = noise(3, 1, 64, 64)
    torch.testing.assert_close(network(clips)[1:2], network(clips[1:2]), atol=1e-4, rtol=1e-4)


def test_dropout_acts_in_training_only() -> None:
    network = SmallCnnTeacher(classes=10, width=16, dropout=0.9).eval()
    clips = noise(2, 1, 64, 64)
    torch.testing.assert_close(network(clips), network(clips), atol=0, rtol=0)
    network.train()
    assert not torch.equal(network(clips), network(clips))


def test_saved_weights_give_the_same_logits_and_keep_the_fast_layout() -> None:
    network = SmallCnnTeacher(classes=10, width=16).eval()
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    buffer.seek(0)
    rebuilt = SmallCnnTeacher(classes=10, width=16).eval()
    rebuilt.load_state_dict(torch.load(buffer, weights_only=True))
    clips = noise(2, 1, 64, 64)
    torch.testing.assert_close(rebuilt(clips), network(clips), atol=0, rtol=0)
    weights = [weight for weight in rebuilt.body.parameters() if weight.ndim == 4]
    assert weights and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.parametrize("shape", [(2, 64, 64), (2, 2, 64, 64), (2, 1, 63, 64)])
def test_a_log_mel_of_another_shape_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(batch, 1, bands, frames\), 64 bands up, got \(2, "):
        SmallCnnTeacher(classes=10, width=16)(torch.zeros(shape))


@pytest.mark.parametrize(("classes", "width"), [(0, 32), (10, 0)])
def test_settings_below_one_are_refused_with_their_values(classes: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"got {classes} and {width}"):
        SmallCnnTeacher(classes=classes, width=width)
