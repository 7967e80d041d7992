import numpy as np
import pytest
import torch

from adaptf.audio.impulse_response import DeviceImpulseResponse, ResponseBank
from adaptf.audio.mixup import Mixup
from adaptf.data.batch import ClipBatch
from adaptf.training.augmentation import impulse_responses, soft_mixup
from adaptf.training.metrics import MacroAccuracy, MeanAveragePrecision


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


@pytest.mark.parametrize(("devices", "changed"), [([0], [0, 2, 4]), ([1, 2], [1, 3, 5]), (None, [0, 1, 2, 3, 4, 5])])
def test_impulse_responses_reach_only_their_devices(batch, devices, changed):
    twice = ResponseBank(torch.tensor([[2.0]]))
    transform = DeviceImpulseResponse(twice, p=1.0, generator=np.random.default_rng(0))
    batch = batch._replace(x=batch.x + 1)
    ratio = impulse_responses(transform, devices=devices)(batch).x[:, 0] / batch.x[:, 0]
    assert (ratio > 1.5).nonzero().flatten().tolist() == changed


def test_macro_accuracy_weighs_scenes_alike_and_forgets_absent_ones():
    metric = MacroAccuracy(3)
    metric.update(torch.eye(3)[[0, 0, 0, 1]], torch.eye(3)[[0, 0, 0, 0]])
    metric.update(torch.eye(3)[[1]], torch.eye(3)[[1]])
    assert float(metric.compute()) == pytest.approx((0.75 + 1.0) / 2)
    metric.reset()
    metric.update(torch.eye(3)[[2]], torch.eye(3)[[1]])
    assert float(metric.compute()) == 0


def test_mean_average_precision_is_over_the_classes_that_occur():
    metric = MeanAveragePrecision(3)
    metric.update(torch.tensor([[2.0, -1.0, 0.0], [-2.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert float(metric.compute()) == pytest.approx(1.0)
