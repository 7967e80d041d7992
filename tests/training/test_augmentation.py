import numpy as np
import pytest
import torch

from adaptf.audio.impulse_response import DeviceImpulseResponse, ResponseBank
from adaptf.audio.mixup import Mixup
from adaptf.audio.spec_augment import SpecAugment
from adaptf.data.batch import FeatureBatch, Labels, WaveformBatch
from adaptf.training.augmentation import impulse_responses, on_features, soft_mixup

NUMBER = torch.arange(6.0)


@pytest.fixture
def labels():
    """Every tensor of clip i holds the number i, so that whatever is mixed shows with what and how much."""
    return Labels(
        targets=NUMBER[:, None].expand(6, 3),
        teacher_logits=NUMBER[:, None, None].expand(6, 2, 3),
        device=torch.tensor([0, 1, 0, 2, 0, 1]),
        row=np.array([9, 4, 5, 6, 7, 8]),
    )


@pytest.fixture
def batch(labels):
    return FeatureBatch(NUMBER[:, None].expand(6, 100), labels)


def test_soft_mixup_mixes_inputs_targets_and_teachers_alike(batch):
    mixed = soft_mixup(Mixup(alpha=0.4, generator=np.random.default_rng(0)))(batch)
    assert not torch.equal(mixed.features, batch.features)
    assert torch.allclose(mixed.features[:, 0], mixed.labels.targets[:, 0])
    assert torch.allclose(mixed.features[:, 0], mixed.labels.teacher_logits[:, 1, 2])
    assert mixed.labels.unmixed_teachers is None


def test_mixing_of_terms_leaves_the_teachers_and_says_how_to_mix_their_terms(batch):
    mixed = soft_mixup(Mixup(alpha=0.4, generator=np.random.default_rng(0)), teachers="terms")(batch).labels
    draw = mixed.unmixed_teachers
    assert torch.equal(mixed.teacher_logits, batch.labels.teacher_logits)
    expected = draw.own_share * NUMBER + (1 - draw.own_share) * NUMBER[draw.partner]
    assert torch.allclose(mixed.targets[:, 0], expected)


@pytest.mark.parametrize(
    ("clips", "changed"), [([9, 5, 7], [0, 2, 4]), ([4, 6, 8], [1, 3, 5]), (range(10), range(6))]
)
def test_impulse_responses_reach_only_the_clips_that_they_are_for(labels, clips, changed):
    twice = ResponseBank(torch.tensor([[2.0]]))
    transform = DeviceImpulseResponse(twice, p=1.0, generator=np.random.default_rng(0))
    batch = WaveformBatch(torch.ones(6, 100), labels)
    augment = impulse_responses(transform, p_of_clip=np.isin(np.arange(10), clips).astype(np.float64))
    assert (augment(batch).waveforms[:, 0] > 1.5).nonzero().flatten().tolist() == list(changed)


def test_what_draws_for_impulse_responses_stays_on_the_cpu(labels):
    """Whatever the batch lies on: nothing has to be fetched from there."""
    transform = DeviceImpulseResponse(
        ResponseBank(torch.ones(1, 1)), p=1.0, generator=np.random.default_rng(0)
    )
    elsewhere = WaveformBatch(torch.ones(6, 100), labels._replace(device=labels.device.to("meta")))
    augment = impulse_responses(transform, p_of_clip=np.ones(10))
    assert augment(elsewhere).waveforms.shape == (6, 100)


def test_spec_augment_changes_only_the_features(labels):
    features = FeatureBatch(torch.ones(6, 1, 20, 30), labels)
    masked = on_features(SpecAugment(mask_share=0.5, generator=np.random.default_rng(0)))(features)
    assert set(masked.features.unique().tolist()) == {0.0, 1.0}
    assert masked.labels is labels
