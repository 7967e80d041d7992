import pytest
import torch

from adaptf.models.checkpoint import load_classifier
from adaptf.models.classifier import ModelDescription
from adaptf.models.residual_normalization import ResidualNormalization
from adaptf.models.students.registry import TFSEPNET
from adaptf.models.students.tfsepnet.network import TfSepNet
from adaptf.models.students.tfsepnet.public_checkpoint import from_public, is_public

pytestmark = pytest.mark.arithmetic

SCENES = tuple("abcdefghij")


def test_network_of_the_challenge_size_has_126858_parameters():
    assert sum(parameter.numel() for parameter in TfSepNet(classes=10).parameters()) == 126_858


def test_public_checkpoint_gives_the_reference_logits(golden, golden_folder):
    reference = golden("tfsepnet64_d17")
    description = ModelDescription(kind=TFSEPNET, classes=SCENES)
    classifier = load_classifier(golden_folder / "tfsepnet64_d17.ckpt", public_description=description)
    with torch.no_grad():
        logits = classifier.network(reference["logmel"])
        exact = classifier.network.double()(reference["logmel"].double())
    assert (reference["logits"] - exact).abs().max() < 1e-5
    assert (logits - exact).abs().max() < 1e-5


def test_every_key_of_a_public_checkpoint_is_converted(golden_folder):
    state = torch.load(golden_folder / "tfsepnet64_d17.ckpt", weights_only=True)["state_dict"]
    assert is_public(state)
    assert set(from_public(state)) == set(TfSepNet(classes=10).state_dict())


def test_residual_normalization_has_the_gradient_of_its_formula():
    x = torch.randn(
        2, 3, 4, 5, dtype=torch.double, requires_grad=True, generator=torch.Generator().manual_seed(0)
    )
    assert torch.autograd.gradcheck(ResidualNormalization(), x)


def test_residual_normalization_is_the_same_with_and_without_gradient():
    x = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0))
    norm = ResidualNormalization()
    mean, deviation = x.mean((1, 3), keepdim=True), (x.var((1, 3), keepdim=True) + 1e-5).sqrt()
    expected = 0.1 * x + (x - mean) / deviation
    assert torch.allclose(norm(x), expected, atol=1e-5)
    assert torch.allclose(norm(x.clone().requires_grad_()), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "depth", "message"), [(30, 17, "multiple of 4 .*got 30"), (64, 18, "got 18")]
)
def test_impossible_shapes_are_refused_with_the_value(width, depth, message):
    with pytest.raises(ValueError, match=message):
        TfSepNet(classes=10, width=width, depth=depth)


def test_a_shallower_network_works():
    assert TfSepNet(classes=4, width=16, depth=9)(torch.zeros(2, 1, 64, 64)).shape == (2, 4)
