import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptf.models.teachers.beats import BeatsClassifier, BeatsEncoder, BeatsFeatures, rebuilt_beats
from adaptf.models.teachers.beats_file import load_beats

GOLDEN = Path(__file__).parents[2] / "golden"
CHECKPOINT = GOLDEN / "beats_tiny.pt"


@pytest.fixture
def golden() -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in np.load(GOLDEN / "beats_tiny.npz").items()}


@pytest.fixture
def cfg() -> dict[str, Any]:
    """Of the golden checkpoint."""
    settings: dict[str, Any] = torch.load(CHECKPOINT, weights_only=True)["cfg"]
    return settings


@pytest.fixture
def encoder() -> BeatsEncoder:
    return load_beats(CHECKPOINT).eval()


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


# The network


@pytest.mark.arithmetic
def test_tokens_equal_the_golden_ones(encoder: BeatsEncoder, golden: dict[str, Tensor]) -> None:
    tokens = encoder(golden["fbank"].transpose(1, 2).unsqueeze(1))
    torch.testing.assert_close(tokens, golden["features"], atol=1e-4, rtol=0)


@pytest.mark.arithmetic
def test_tokens_of_the_golden_waveform_differ_by_the_rounding_of_its_empty_bands(
    encoder: BeatsEncoder, golden: dict[str, Tensor]
) -> None:
    features = BeatsFeatures(sample_rate=16000)(golden["wav16k"])
    # The golden waveforms have bands without energy, where features are the rounding errors of a processor's
    # FFT (see test_fbank.py): float64 moves these tokens, of up to 3.2, by 0.007.
    torch.testing.assert_close(encoder(features), golden["features"], atol=3e-2, rtol=0)


@pytest.mark.arithmetic
def test_tokens_of_a_waveform_equal_speechbrains_own_forward(encoder: BeatsEncoder) -> None:
    speechbrain_beats = importlib.import_module("speechbrain.lobes.models.beats")
    waveform = noise(4, 16000)
    reference, *_ = speechbrain_beats.BEATs(str(CHECKPOINT), freeze=True).extract_features(
        waveform, torch.ones(4)
    )
    features = BeatsFeatures(sample_rate=16000)(waveform)
    torch.testing.assert_close(encoder(features), reference, atol=1e-4, rtol=0)


@pytest.mark.arithmetic
def test_logits_are_the_mean_over_tokens_of_a_linear_layer(encoder: BeatsEncoder) -> None:
    network = BeatsClassifier(encoder, classes=10).eval()
    features = noise(3, 1, 128, 98)
    expected = torch.stack([network.classifier(token) for token in encoder(features).unbind(dim=1)]).mean(
        dim=0
    )
    assert encoder(features).shape == (3, 6 * 8, 48)
    torch.testing.assert_close(network(features), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 128, 98), (2, 1, 98, 128), (2, 2, 128, 98), (2, 1, 128, 15)])
def test_features_of_another_shape_are_refused_with_their_shape(
    encoder: BeatsEncoder, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"\(batch, 1, 128, frames\) with at least 16 frames, got \(2, "):
        encoder(torch.zeros(shape))


def test_no_classes_are_refused(encoder: BeatsEncoder) -> None:
    with pytest.raises(ValueError, match="got 0"):
        BeatsClassifier(encoder, classes=0)


def test_loading_leaves_pytorchs_global_settings_alone(encoder: BeatsEncoder) -> None:
    assert torch.get_float32_matmul_precision() == "highest"


# Features


def test_a_second_at_32_khz_gives_128_bands_by_98_frames() -> None:
    assert BeatsFeatures()(noise(2, 32000)).shape == (2, 1, 128, 98)


@pytest.mark.arithmetic
def test_a_tone_has_the_same_features_at_both_sample_rates() -> None:
    low, high = (torch.sin(2 * torch.pi * 1000 * torch.arange(rate) / rate)[None] for rate in (16000, 32000))
    expected, resampled = BeatsFeatures(sample_rate=16000)(low), BeatsFeatures(sample_rate=32000)(high)
    strong = expected > expected.max() - 1.0
    strong[..., :2] = strong[..., -2:] = False  # the resampler sees silence beyond both ends
    torch.testing.assert_close(resampled[strong], expected[strong], atol=2e-3, rtol=0)


@pytest.mark.arithmetic
def test_features_keep_their_precision_under_autocast() -> None:
    waveform, features = noise(1, 32000), BeatsFeatures()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(features(waveform), features(waveform).float())
        automatic = features(waveform)
    torch.testing.assert_close(automatic, features(waveform))


# Training


def test_a_frozen_encoder_gets_no_gradient_and_stays_in_evaluation_mode(encoder: BeatsEncoder) -> None:
    network = BeatsClassifier(encoder, classes=10, freeze_encoder=True).train()
    network(noise(2, 1, 128, 98)).sum().backward()
    learning = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert learning == {"classifier.weight", "classifier.bias"}
    assert all(weight.grad is None for weight in encoder.parameters())
    assert network.classifier.weight.grad is not None
    assert network.training and not any(module.training for module in encoder.modules())


def test_without_freezing_every_encoder_weight_in_use_gets_a_gradient(encoder: BeatsEncoder) -> None:
    network = BeatsClassifier(encoder, classes=10).train()
    network(noise(2, 1, 128, 98)).square().sum().backward()
    assert all(module.training for module in encoder.modules())
    assert {name for name, weight in network.named_parameters() if weight.grad is None} == set()


def test_a_classifier_is_rebuilt_from_its_settings_and_weights_without_the_beats_file(
    encoder: BeatsEncoder,
) -> None:
    network = BeatsClassifier(encoder, classes=3, freeze_encoder=True).eval()
    rebuilt = rebuilt_beats(classes=3, **json.loads(json.dumps(network.settings))).eval()
    rebuilt.load_state_dict(network.state_dict())
    features = noise(2, 1, 128, 98)
    torch.testing.assert_close(rebuilt(features), network(features), atol=0, rtol=0)
    assert rebuilt.freeze_encoder
    assert rebuilt.settings == network.settings


# Embeddings


@pytest.mark.arithmetic
def test_the_linear_layer_makes_the_logits_of_the_embedding(encoder: BeatsEncoder) -> None:
    network = BeatsClassifier(encoder, classes=10).eval()
    features = noise(3, 1, 128, 98)
    assert network.embed(features).shape == (3, 48)
    torch.testing.assert_close(
        network.classifier(network.embed(features)), network(features), atol=1e-5, rtol=0
    )


def test_the_embedding_of_a_frozen_encoder_carries_no_gradient(encoder: BeatsEncoder) -> None:
    assert BeatsClassifier(encoder, classes=3).embed(noise(1, 1, 128, 98)).requires_grad
    assert (
        not BeatsClassifier(encoder, classes=3, freeze_encoder=True).embed(noise(1, 1, 128, 98)).requires_grad
    )


# The published size


@pytest.mark.slow
def test_a_file_of_the_published_size_is_read_and_classifies(
    published_beats_cfg: Callable[[], dict[str, Any]], write_beats_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_beats_file(tmp_path / "BEATs.pt", published_beats_cfg(), finetuned=True)
    network = BeatsClassifier(load_beats(path, finetuned=True), classes=10).eval()
    assert sum(weight.numel() for weight in network.encoder.parameters()) == 90_311_792
    with torch.no_grad():
        assert network.embed(noise(1, 1, 128, 98)).shape == (1, 768)


def test_whoever_looks_at_all_modules_after_speechbrain_is_imported_meets_no_error(
    encoder: BeatsEncoder,
) -> None:
    for module in list(sys.modules.values()):
        getattr(module, "__file__", None)
