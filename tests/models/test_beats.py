import importlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptf.models.beats import (
    BeatsClassifier,
    BeatsEncoder,
    BeatsFeatures,
    BeatsFileError,
    BeatsTeacher,
    load_beats,
)

GOLDEN = Path(__file__).parent.parent / "golden"
CHECKPOINT = GOLDEN / "beats_tiny.pt"


@pytest.fixture
def golden() -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in np.load(GOLDEN / "beats_tiny.npz").items()}


@pytest.fixture
def checkpoint() -> dict[str, Any]:
    content: dict[str, Any] = torch.load(CHECKPOINT, weights_only=True)
    return content


@pytest.fixture
def encoder() -> BeatsEncoder:
    return load_beats(CHECKPOINT).eval()


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


# The network


def test_tokens_equal_the_golden_ones(encoder: BeatsEncoder, golden: dict[str, Tensor]) -> None:
    tokens = encoder(golden["fbank"].transpose(1, 2).unsqueeze(1))
    torch.testing.assert_close(tokens, golden["features"], atol=1e-4, rtol=0)


def test_tokens_of_the_golden_waveform_differ_by_the_rounding_of_its_empty_bands(
    encoder: BeatsEncoder, golden: dict[str, Tensor]
) -> None:
    features = BeatsFeatures(sample_rate=16000)(golden["wav16k"])
    # The golden features hold rounding errors in bands without energy (see test_fbank.py); speechbrain's own forward
    # comes no nearer to these tokens on another processor.
    torch.testing.assert_close(encoder(features), golden["features"], atol=1e-2, rtol=0)


def test_tokens_of_a_waveform_equal_speechbrains_own_forward(encoder: BeatsEncoder) -> None:
    speechbrain_beats = importlib.import_module("speechbrain.lobes.models.beats")
    waveform = noise(2, 16000)
    reference, *_ = speechbrain_beats.BEATs(str(CHECKPOINT), freeze=True).extract_features(waveform, torch.ones(2))
    features = BeatsFeatures(sample_rate=16000)(waveform)
    torch.testing.assert_close(encoder(features), reference, atol=1e-4, rtol=0)


def test_the_old_predictor_of_a_fine_tuned_file_is_dropped(
    encoder: BeatsEncoder, checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint["cfg"] |= {"finetuned_model": True, "predictor_dropout": 0.0, "predictor_class": 527}
    checkpoint["model"] |= {"predictor.weight": torch.zeros(527, 48), "predictor.bias": torch.zeros(527)}
    torch.save(checkpoint | {"label_dict": {0: "/m/09x0r"}}, tmp_path / "finetuned.pt")
    finetuned = load_beats(tmp_path / "finetuned.pt").eval()
    assert finetuned.cfg == encoder.cfg
    features = noise(1, 1, 128, 98)
    torch.testing.assert_close(finetuned(features), encoder(features))


def test_logits_are_the_mean_over_tokens_of_a_linear_layer(encoder: BeatsEncoder) -> None:
    network = BeatsClassifier(encoder, classes=10).eval()
    features = noise(3, 1, 128, 98)
    expected = torch.stack([network.classifier(token) for token in encoder(features).unbind(dim=1)]).mean(dim=0)
    assert encoder(features).shape == (3, 6 * 8, 48)
    torch.testing.assert_close(network(features), expected)


def test_the_teacher_turns_waveforms_at_32_khz_into_logits_by_features_and_network(encoder: BeatsEncoder) -> None:
    teacher = BeatsTeacher(BeatsClassifier(encoder, classes=10)).eval()
    waveform = noise(2, 32000)
    logits = teacher(waveform)
    assert logits.shape == (2, 10)
    torch.testing.assert_close(logits, teacher.network(teacher.features(waveform)))


@pytest.mark.parametrize("shape", [(2, 128, 98), (2, 1, 98, 128), (2, 2, 128, 98), (2, 1, 128, 15)])
def test_features_of_another_shape_are_refused_with_their_shape(encoder: BeatsEncoder, shape: tuple[int, ...]) -> None:
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


def test_a_tone_has_the_same_features_at_both_sample_rates() -> None:
    low, high = (torch.sin(2 * torch.pi * 1000 * torch.arange(rate) / rate)[None] for rate in (16000, 32000))
    expected, resampled = BeatsFeatures(sample_rate=16000)(low), BeatsFeatures(sample_rate=32000)(high)
    strong = expected > expected.max() - 1.0
    strong[..., :2] = strong[..., -2:] = False  # the resampler sees silence beyond both ends
    torch.testing.assert_close(resampled[strong], expected[strong], atol=2e-3, rtol=0)


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


def test_a_classifier_is_rebuilt_from_its_own_checkpoint_without_the_beats_file(encoder: BeatsEncoder, tmp_path: Path) -> None:
    network = BeatsClassifier(encoder, classes=3, freeze_encoder=True).eval()
    torch.save({"cfg": network.cfg, "state": network.state_dict()}, tmp_path / "own.pt")
    own = torch.load(tmp_path / "own.pt", weights_only=True)
    rebuilt = BeatsClassifier.from_state(own["cfg"], own["state"]).eval()
    features = noise(2, 1, 128, 98)
    torch.testing.assert_close(rebuilt(features), network(features), atol=0, rtol=0)
    assert rebuilt.freeze_encoder
    assert rebuilt.cfg == network.cfg == json.loads(json.dumps(network.cfg))


# Files that are no BEATs checkpoint


def refusal(path: Path) -> str:
    """The message of the error, after checking what every one of them says."""
    with pytest.raises(BeatsFileError) as caught:
        load_beats(path)
    message = str(caught.value)
    assert repr(str(path)) in message
    for origin in ("microsoft/unilm", "BEATs_iter3_plus_AS2M.pt", "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt"):
        assert origin in message
    assert "local path" in message
    return message


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "BEATs.pt")


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert "it is a folder" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK", b"<!DOCTYPE html><title>Not found</title>", b"\x89PNG" + bytes(900)])
def test_a_file_of_another_program_is_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "BEATs.pt"
    path.write_bytes(content)
    assert f"not written by torch.save (it begins with {content[:8]!r})" in refusal(path)


@pytest.mark.parametrize("kept_bytes", [4, 100, 5000, 142_000, -1])
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_was_cut_off_is_refused(kept_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "BEATs.pt"
    path.write_bytes(CHECKPOINT.read_bytes()[:kept_bytes])
    assert "cut off or damaged" in refusal(path)


def test_a_file_with_damaged_bytes_is_refused(tmp_path: Path) -> None:
    content = bytearray(CHECKPOINT.read_bytes())
    content[150_000:150_100] = bytes(100)
    path = tmp_path / "BEATs.pt"
    path.write_bytes(content)
    message = refusal(path)
    assert "cut off or damaged" in message and "bad checksum of" in message


class Trap:
    """Unpickled without a check it writes a file, as a stranger's checkpoint could write any."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, (f"open({str(self.sprung)!r}, 'w').close()",)


def as_plain_pickle(trap: Trap) -> bytes:
    return pickle.dumps({"cfg": {}, "model": trap})


def as_old_pickle(trap: Trap) -> bytes:
    return pickle.dumps({"cfg": {}, "model": trap}, protocol=2)


def as_torch_file(trap: Trap, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save({"cfg": {}, "model": trap}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def as_old_torch_file(trap: Trap) -> bytes:
    return as_torch_file(trap, zipped=False)


@pytest.mark.parametrize("write", [as_plain_pickle, as_old_pickle, as_torch_file, as_old_torch_file])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_that_wants_to_run_code_is_refused_and_runs_none(write: Callable[[Trap], bytes], tmp_path: Path) -> None:
    path, sprung = tmp_path / "BEATs.pt", tmp_path / "sprung"
    path.write_bytes(write(Trap(sprung)))
    message = refusal(path)
    assert not sprung.exists()
    assert "PyTorch refuses to read it" in message and "could run code; nothing in it was run" in message


def test_the_trap_of_these_tests_works_where_nothing_checks(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    pickle.loads(as_plain_pickle(Trap(sprung)))
    assert sprung.exists()


def test_the_refusal_names_the_code_and_hides_pytorchs_advice_to_skip_the_check(tmp_path: Path) -> None:
    path = tmp_path / "BEATs.pt"
    path.write_bytes(as_torch_file(Trap(tmp_path / "sprung")))
    with pytest.raises(BeatsFileError, match=r"names code .*exec") as caught:
        load_beats(path)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (torch.zeros(3), "is a Tensor"),
        ([1, 2], "is a list"),
        ({}, "holds nothing"),
        ({"state_dict": {}, "epoch": 3}, "holds 'state_dict', 'epoch'"),
        ({"cfg": {}}, "holds 'cfg'"),
        ({"cfg": None, "model": {}}, "two dicts named 'cfg' and 'model'"),
        ({"cfg": {}, "model": [1]}, "two dicts named 'cfg' and 'model'"),
    ],
)
def test_a_file_without_settings_and_weights_is_refused(content: Any, expected: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "BEATs.pt")
    assert expected in refusal(tmp_path / "BEATs.pt")


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder_attention_heads": 5},
        {"encoder_layers": "two"},
        {"activation_fn": "sine"},
        {"layer_norm_first": True, "encoder_layers": 0},
        {"embed_dim": -1},
    ],
)
def test_settings_of_no_beats_network_are_refused(checkpoint: dict[str, Any], wrong: dict[str, Any], tmp_path: Path) -> None:
    checkpoint["cfg"] |= wrong
    torch.save(checkpoint, tmp_path / "BEATs.pt")
    assert "its cfg describes no BEATs network" in refusal(tmp_path / "BEATs.pt")


def without_a_bias(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: weight for name, weight in weights.items() if name != "layer_norm.bias"}


def with_a_quantizer(weights: dict[str, Any]) -> dict[str, Any]:
    return weights | {"quantize.embedding.weight": torch.zeros(2)}


def with_another_shape(weights: dict[str, Any]) -> dict[str, Any]:
    return weights | {"layer_norm.bias": torch.zeros(33)}


def with_a_number(weights: dict[str, Any]) -> dict[str, Any]:
    return weights | {"layer_norm.bias": 1}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without_a_bias, "layer_norm.bias"),
        (with_a_quantizer, "quantize.embedding.weight"),
        (with_another_shape, "[33]"),
        (with_a_number, "layer_norm.bias"),
    ],
)
def test_weights_of_another_network_are_refused_with_their_name(
    checkpoint: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]], named: str, tmp_path: Path
) -> None:
    checkpoint["model"] = change(checkpoint["model"])
    torch.save(checkpoint, tmp_path / "BEATs.pt")
    message = refusal(tmp_path / "BEATs.pt")
    assert "do not fit the network of its cfg" in message and named in message
