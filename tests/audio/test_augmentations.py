import numpy as np
import pytest
import torch

from adaptf.audio.freq_mixstyle import FreqMixStyle, StyleDraw, mix_style
from adaptf.audio.impulse_response import DeviceImpulseResponse, ResponseBank, simulated_bank
from adaptf.audio.mixup import Mixup, mix
from adaptf.audio.spec_augment import MaskDraw, SpecAugment, Stripes, mask

pytestmark = pytest.mark.arithmetic


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_impulse_response_equals_the_reference(golden):
    reference = golden("dir")
    bank = ResponseBank(reference["ir"][None])
    filtered = bank.convolve(reference["wav"][None], torch.tensor([0]))[0].numpy()
    exact = np.convolve(reference["wav"].double(), reference["ir"].double())[: len(filtered)]
    assert np.abs(reference["y"].numpy() - exact).max() < 1e-5  # a sample is up to 4.8
    assert np.abs(filtered - exact).max() < 2e-5


def test_each_clip_is_convolved_with_its_own_response():
    bank = ResponseBank(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    waveform = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    filtered = bank.convolve(waveform, torch.tensor([0, 1, 0]))
    assert torch.allclose(filtered[[0, 2]], waveform[[0, 2]], atol=1e-5)
    assert torch.allclose(filtered[1, 2:], waveform[1, :-2], atol=1e-5)


def test_impulse_responses_touch_no_clip_whose_probability_is_zero():
    transform = DeviceImpulseResponse(simulated_bank(sample_rate=32000), p=1.0, generator=generator())
    waveform = torch.randn(6, 4000, generator=torch.Generator().manual_seed(0))
    p = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    changed = (transform(waveform, p) != waveform).any(dim=1)
    assert changed.tolist() == p.bool().tolist()


def test_impulse_responses_come_with_their_probability():
    transform = DeviceImpulseResponse(simulated_bank(sample_rate=32000), p=0.3, generator=generator())
    share = sum(len(transform.draw(100).clips) for _ in range(100)) / 10000
    assert share == pytest.approx(0.3, abs=0.02)


def test_each_clip_is_convolved_with_its_own_probability():
    transform = DeviceImpulseResponse(ResponseBank(torch.tensor([[2.0]])), p=0.8, generator=generator())
    waveform, p = torch.ones(4000, 1), torch.tensor([0.1, 0.4, 0.8, 0.0], dtype=torch.float64).repeat(1000)
    changed = (transform(waveform, p) > 1.5)[:, 0].view(1000, 4)
    assert changed.double().mean(dim=0).tolist() == pytest.approx([0.1, 0.4, 0.8, 0.0], abs=0.05)


def test_freq_mixstyle_equals_the_reference(golden):
    reference = golden("freqmixstyle")
    draw = StyleDraw(partner=reference["perm"], own_share=float(reference["lam"]))
    exact = mix_style(reference["x"].double(), draw)
    assert (reference["y"] - exact).abs().max() < 1e-5  # a value is up to 7.7
    assert (mix_style(reference["x"], draw) - exact).abs().max() < 2e-5


def test_no_gradient_flows_through_the_statistics_of_freq_mixstyle():
    x = torch.randn(4, 1, 8, 10, requires_grad=True, generator=torch.Generator().manual_seed(0))
    draw = StyleDraw(partner=torch.tensor([1, 0, 3, 2]), own_share=0.4)
    mix_style(x, draw).sum().backward()
    with torch.no_grad():
        variance = x.var(dim=(1, 3), keepdim=True)
        deviation = (variance + 1e-6).sqrt()
        mixed_deviation = 0.4 * deviation + 0.6 * deviation[draw.partner]
    assert torch.allclose(x.grad, (mixed_deviation / deviation).expand_as(x), atol=1e-5)


def test_freq_mixstyle_happens_with_its_probability():
    transform = FreqMixStyle(p=0.25, alpha=0.4, generator=generator())
    share = sum(transform.draw(4) is not None for _ in range(4000)) / 4000
    assert share == pytest.approx(0.25, abs=0.03)


def test_mixup_mixes_whatever_belongs_to_a_clip_with_one_draw():
    draw = Mixup(alpha=0.2, generator=generator()).draw(5)
    assert draw is not None
    values = torch.arange(5.0)
    expected = draw.own_share * values + (1 - draw.own_share) * values[draw.partner]
    assert torch.allclose(mix(values, draw), expected)
    assert torch.allclose(mix(values[:, None].expand(5, 3), draw)[:, 2], expected)


def test_mixup_with_alpha_zero_is_off():
    assert Mixup(alpha=0.0, generator=generator()).draw(5) is None


def test_masks_cover_their_bands_and_frames_and_nothing_else():
    features = torch.ones(2, 1, 4, 6)
    bands = Stripes(start=torch.tensor([1, 0]), end=torch.tensor([3, 0]))
    frames = Stripes(start=torch.tensor([5, 2]), end=torch.tensor([6, 4]))
    expected = torch.ones(2, 1, 4, 6)
    expected[0, :, 1:3], expected[0, :, :, 5:], expected[1, :, :, 2:4] = 0, 0, 0
    assert torch.equal(mask(features, MaskDraw(bands, frames)), expected)
    assert torch.equal(features, torch.ones(2, 1, 4, 6))


def test_mask_widths_and_places_are_drawn_evenly():
    draw = SpecAugment(mask_share=0.5, generator=generator()).draw(20000, bands=20, frames=8)
    for stripes, widest, size in ((draw.bands, 10, 20), (draw.frames, 4, 8)):
        width = stripes.end - stripes.start
        counts = torch.bincount(width, minlength=widest) / len(width)
        assert counts.tolist() == pytest.approx([1 / widest] * widest, abs=0.02)
        assert stripes.start.min() == 0
        assert stripes.end.max() == size - 1  # both are rounded down


def test_each_clip_has_masks_of_its_own():
    masked = SpecAugment(mask_share=0.9, generator=generator())(torch.ones(16, 1, 32, 40))
    assert len({tuple(clip.flatten().tolist()) for clip in masked}) > 12


@pytest.mark.parametrize("mask_share", [-0.1, 1.0])
def test_a_mask_share_outside_0_to_1_is_refused(mask_share):
    with pytest.raises(ValueError, match=f"less than 1, got {mask_share}"):
        SpecAugment(mask_share=mask_share, generator=generator())


def test_spec_augment_with_mask_share_zero_is_off():
    features = torch.ones(2, 1, 4, 6)
    assert SpecAugment(mask_share=0.0, generator=generator())(features) is features


@pytest.mark.parametrize(
    "make",
    [
        lambda g: Mixup(alpha=0.3, generator=g).draw(8),
        lambda g: FreqMixStyle(p=1.0, alpha=0.4, generator=g).draw(8),
        lambda g: DeviceImpulseResponse(ResponseBank(torch.ones(9, 2)), p=0.7, generator=g).draw(8),
        lambda g: SpecAugment(mask_share=0.4, generator=g).draw(8, bands=64, frames=50),
    ],
)
def test_the_same_seed_draws_the_same(make):
    first, again, other = make(generator(1)), make(generator(1)), make(generator(2))
    assert str(first) == str(again)
    assert str(first) != str(other)
