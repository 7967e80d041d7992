import numpy as np
import pytest
import torch

from adaptf.audio.impulse_response import DeviceImpulseResponse, ResponseBank
from adaptf.audio.mixup import Mixup
from adaptf.audio.spec_augment import SpecAugment
from adaptf.audio.time_roll import TimeRoll
from adaptf.data.batch import ClipBatch
from adaptf.training.augmentation import impulse_responses, soft_mixup, spec_augment, time_roll


@pytest.fixture
def batch():
    """Every tensor of clip i holds the number i, so that whatever is mixed shows with what and how much."""
    number = torch.arange(6.0)
    return ClipBatch(
        x=number[:, None].expand(6, 100),
        targets=number[:, None].expand(6, 3),
        teacher_logits=number[:, None, None].expand(6, 2, 3),
        device=torch.tensor([0, 1, 0, 2, 0, 1]),
        row=torch.arange(6),
    )


def test_soft_mixup_mixes_inputs_targets_and_teachers_alike(batch):
    mixed = soft_mixup(Mixup(alpha=0.4, generator=np.random.default_rng(0)))(batch)
    assert not torch.equal(mixed.x, batch.x)
    assert torch.allclose(mixed.x[:, 0], mixed.targets[:, 0])
    assert torch.allclose(mixed.x[:, 0], mixed.teacher_logits[:, 1, 2])
    assert mixed.unmixed_teachers is None


def test_mixing_of_terms_leaves_the_teachers_and_says_how_to_mix_their_terms(batch):
    mixed = soft_mixup(Mixup(alpha=0.4, generator=np.random.default_rng(0)), teachers="terms")(batch)
    draw = mixed.unmixed_teachers
    assert torch.equal(mixed.teacher_logits, batch.teacher_logits)
    expected = draw.own_share * torch.arange(6.0) + (1 - draw.own_share) * torch.arange(6.0)[draw.partner]
    assert torch.allclose(mixed.targets[:, 0], expected)


@pytest.mark.parametrize(("p", "changed"), [([1, 0, 0], [0, 2, 4]), ([0, 1, 1], [1, 3, 5]), ([1, 1, 1], [0, 1, 2, 3, 4, 5])])
def test_impulse_responses_reach_only_their_devices(batch, p, changed):
    twice = ResponseBank(torch.tensor([[2.0]]))
    transform = DeviceImpulseResponse(twice, p=1.0, generator=np.random.default_rng(0))
    batch = batch._replace(x=batch.x + 1)
    ratio = impulse_responses(transform, p_of_device=p)(batch).x[:, 0] / batch.x[:, 0]
    assert (ratio > 1.5).nonzero().flatten().tolist() == changed


def test_time_roll_changes_only_the_waveforms(batch):
    ramp = batch._replace(x=torch.arange(100.0).expand(6, 100))
    rolled = time_roll(TimeRoll(max_seconds=1.0, sample_rate=50, generator=np.random.default_rng(0)))(ramp)
    assert not torch.equal(rolled.x, ramp.x)
    assert torch.equal(rolled.x.sort(dim=1).values, ramp.x)
    assert all(after is before for after, before in zip(rolled[1:], ramp[1:], strict=True))


def test_spec_augment_changes_only_the_features(batch):
    features = batch._replace(x=torch.ones(6, 1, 20, 30))
    masked = spec_augment(SpecAugment(mask_share=0.5, generator=np.random.default_rng(0)))(features)
    assert set(masked.x.unique().tolist()) == {0.0, 1.0}
    assert all(after is before for after, before in zip(masked[1:], features[1:], strict=True))
