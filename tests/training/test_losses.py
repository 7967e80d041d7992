import pytest
import torch

from adaptf.audio.mixup import MixDraw, mix
from adaptf.training.losses import DistillationLoss, kl_divergence


@pytest.fixture
def reference(golden):
    """In float64: the reference's losses are up to 5, where float32 has steps of 5e-7."""
    values = golden("kd_loss")
    values = {name: value.double() if value.is_floating_point() else value for name, value in values.items()}
    values["targets"] = torch.nn.functional.one_hot(values["labels"], 10).double()
    values["teachers"] = values["teacher_logits"].transpose(0, 1)
    return values


@pytest.fixture
def loss(reference):
    temperature, weight = float(reference["temperature"]), float(reference["weight"])
    return DistillationLoss(temperature=temperature, weight=weight, reduction="elements")


def test_distillation_loss_equals_the_reference(reference, loss):
    parts = loss.parts(reference["student_logits"], reference["targets"], reference["teachers"])
    assert abs(parts["label_loss"] - reference["label_loss"]) < 2e-6
    assert abs(parts["distillation_loss"] - reference["kd_loss"]) < 2e-6
    assert abs(parts["loss"] - reference["loss"]) < 2e-6


def test_float32_rounds_the_losses_and_no_more(reference, loss):
    exact = loss.parts(reference["student_logits"], reference["targets"], reference["teachers"])
    parts = loss.parts(
        reference["student_logits"].float(), reference["targets"].float(), reference["teachers"].float()
    )
    assert {name: float(value) for name, value in parts.items()} == pytest.approx(
        {name: float(value) for name, value in exact.items()}, rel=1e-5
    )


def test_mixing_two_terms_equals_the_public_trainer(reference, loss):
    draw = MixDraw(partner=reference["mix_perm"], own_share=float(reference["mix_lambda"]))
    parts = loss.parts(
        reference["student_logits"], mix(reference["targets"], draw), reference["teachers"], draw
    )
    assert abs(parts["label_loss"] - reference["mixed_label_loss"]) < 2e-6
    assert abs(parts["distillation_loss"] - reference["mixed_kd_loss"]) < 2e-6
    assert abs(parts["loss"] - reference["mixed_loss"]) < 2e-6


def test_divergence_per_clip_is_ten_times_that_per_element_for_ten_classes(reference):
    student, teacher = reference["student_logits"], reference["teachers"].mean(dim=1)
    per_element = kl_divergence(student, teacher, temperature=2.0, reduction="elements")
    per_clip = kl_divergence(student, teacher, temperature=2.0, reduction="clips")
    assert torch.allclose(per_clip, 10 * per_element)


def test_a_student_like_its_teachers_has_no_distillation_loss(reference, loss):
    ensemble = reference["teachers"].mean(dim=1)
    assert loss.parts(ensemble, reference["targets"], reference["teachers"])["distillation_loss"].abs() < 1e-6
