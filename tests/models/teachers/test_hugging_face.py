"""Audio classifiers of the library transformers: features, positions, and folders that are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.tiny_transformers import AST_SETTINGS, write_ast, write_wav2vec2
from torch import Tensor, nn

from adaptf.models.checkpoint import load_classifier, save_classifier
from adaptf.models.classifier import Classifier, ModelDescription
from adaptf.models.teachers.hugging_face import EXTRACTORS, HuggingFaceFeatures, transformers_library
from adaptf.models.teachers.hugging_face_file import HuggingFaceError, files_read, hugging_face_from_file
from adaptf.models.torch_file import read_torch_file

WAVEFORM = 0.1 * torch.randn(3, 16000, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def ast_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ast(tmp_path_factory.mktemp("ast"))


@pytest.fixture
def copied(ast_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ast_folder, tmp_path / "copied"))


def librarys(extractor: Any) -> Tensor:
    """What the library's extractor makes of the waveform, clip by clip."""
    features: Tensor = extractor(
        list(WAVEFORM.numpy()), sampling_rate=16000, return_tensors="pt"
    ).input_values
    return features


@pytest.mark.parametrize(
    "settings", [{}, AST_SETTINGS, {"do_normalize": False}, {"max_length": 50, "mean": 1.0, "std": 2.0}]
)
def test_features_equal_those_of_the_librarys_extractor(settings: dict[str, Any]) -> None:
    """The largest difference with the defaults, of values from -1.28 to 1.00, was 7e-6."""
    extractor = transformers_library().ASTFeatureExtractor(**settings)
    ours = HuggingFaceFeatures(extractor=extractor.to_dict(), sample_rate=16000)(WAVEFORM)
    frames = min(98, extractor.max_length)
    assert ours.shape == (3, 1, extractor.num_mel_bins, frames)
    torch.testing.assert_close(ours[:, 0].mT, librarys(extractor)[:, :frames], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("scaled", [True, False])
def test_a_waveform_is_normalised_as_the_librarys_extractor_does(scaled: bool) -> None:
    extractor = transformers_library().Wav2Vec2FeatureExtractor(do_normalize=scaled)
    ours = HuggingFaceFeatures(extractor=extractor.to_dict(), sample_rate=16000)(WAVEFORM + 0.05)
    reference = extractor(list((WAVEFORM + 0.05).numpy()), sampling_rate=16000, return_tensors="pt")
    torch.testing.assert_close(ours[:, 0, 0], reference.input_values, atol=1e-5, rtol=0)


def test_a_new_classifier_stands_on_the_folders_weights(ast_folder: Path) -> None:
    library = transformers_library()
    published = library.ASTForAudioClassification.from_pretrained(ast_folder)
    for classes in (2, 5):  # the old one has five
        network = hugging_face_from_file(str(ast_folder), classes=classes)
        ours, theirs = network.network.state_dict(), published.state_dict()
        changed = {name for name in theirs if not torch.equal(ours[name], theirs[name])}
        assert changed == {
            "classifier.dense.weight",
            "classifier.dense.bias",
            "audio_spectrogram_transformer.embeddings.position_embeddings",
        }
        assert network.training and all(weight.requires_grad for weight in network.parameters())
        assert network(torch.zeros(2, 1, 32, 98)).shape == (2, classes)


def test_positions_of_a_second_are_cut_out_of_the_middle(ast_folder: Path) -> None:
    library = transformers_library()
    published = library.ASTForAudioClassification.from_pretrained(ast_folder).base_model.embeddings
    ours = hugging_face_from_file(str(ast_folder), classes=2).network.base_model.embeddings
    before, after = (one.position_embeddings[0].detach() for one in (published, ours))
    assert torch.equal(after[:2], before[:2])
    patches = before[2:].reshape(2, 25, 16)[:, 8:17]  # 9 of 25 steps of time
    assert torch.equal(after[2:].reshape(2, 9, 16), patches)


def test_a_checkpoint_makes_the_network_again_without_the_folder(copied: Path, tmp_path: Path) -> None:
    network = hugging_face_from_file(str(copied), classes=2)
    description = ModelDescription("transformers", ("a", "b"), network.hears, network.settings)
    path = save_classifier(
        Classifier(description, HuggingFaceFeatures(**network.hears), network), tmp_path / "one.ckpt", epoch=3
    )
    shutil.rmtree(copied)
    waveform = torch.randn(2, 32000)
    again = load_classifier(path)
    with torch.no_grad():
        expected = network.eval()(HuggingFaceFeatures(**network.hears)(waveform))
        torch.testing.assert_close(again(waveform), expected, atol=1e-6, rtol=0)
    stored = read_torch_file(path)["adaptf_model"]
    assert json.loads(json.dumps(stored)) == stored


def test_a_network_that_takes_waveforms_learns_too(tmp_path: Path) -> None:
    network = hugging_face_from_file(str(write_wav2vec2(tmp_path)), classes=2)
    features = HuggingFaceFeatures(**network.hears)(torch.randn(2, 32000))
    assert features.shape == (2, 1, 1, 16000)
    nn.functional.cross_entropy(network(features), torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]
    assert network.network.classifier.weight.grad.abs().sum() > 0


# What is refused


def rewritten(folder: Path, name: str, **changes: Any) -> str:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return str(folder)


def test_pickled_weights_are_refused_with_the_command_that_writes_them_anew(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    (copied / "pytorch_model.bin").write_bytes(b"whatever")
    with pytest.raises(HuggingFaceError, match=r"no safetensors.*AutoModelForAudioClassification.*save_pre"):
        hugging_face_from_file(str(copied), classes=2)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("key", ["auto_map", "attn_implementation"])
def test_code_of_its_own_is_refused(copied: Path, name: str, key: str) -> None:
    (copied / "own.py").write_text("raise SystemExit('it was run')")
    given = rewritten(copied, name, **{key: {"AutoConfig": "own.Config"}})
    with pytest.raises(HuggingFaceError, match=rf"{name} names code of its own \({key}\)"):
        hugging_face_from_file(given, classes=2)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("config.json", {"hidden_size": 32}, "weights, such as .* not in it, or of another shape"),
        ("config.json", {"num_hidden_layers": 2}, r"\d+ weights, such as .* are not in it"),
        ("config.json", {"model_type": "bert"}, "transformers can't read it"),
        ("config.json", {"model_type": "unheard"}, "transformers can't read it"),
        ("preprocessor_config.json", {"num_mel_bins": 64}, "it can't hear a second"),
        ("preprocessor_config.json", {"sampling_rate": 48000}, "ASTFeatureExtractor at 48000 Hz, those that"),
        (
            "preprocessor_config.json",
            {"feature_extractor_type": "WhisperFeatureExtractor"},
            "Whisper.* ASTFeatureExtractor or Wav2Vec2FeatureExtractor at 16000 Hz",
        ),
    ],
)
def test_what_does_not_fit_is_refused(copied: Path, name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(HuggingFaceError, match=said):
        hugging_face_from_file(rewritten(copied, name, **changes), classes=2)


def test_damaged_weights_are_refused(copied: Path) -> None:
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HuggingFaceError, match="transformers can't read it"):
        hugging_face_from_file(str(copied), classes=2)


def test_weights_that_are_not_finite_are_refused(copied: Path) -> None:
    library = transformers_library()
    network = library.ASTForAudioClassification.from_pretrained(copied)
    nn.init.constant_(network.base_model.layernorm.weight, np.nan)
    network.save_pretrained(copied)
    with pytest.raises(HuggingFaceError, match="not finite"):
        hugging_face_from_file(str(copied), classes=2)


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json"])
def test_a_folder_that_lacks_a_description_is_refused(copied: Path, missing: str) -> None:
    (copied / missing).unlink()
    with pytest.raises(HuggingFaceError, match=r"Give a folder that save_pretrained has written"):
        hugging_face_from_file(str(copied), classes=2)


def test_a_path_that_leads_nowhere_is_said() -> None:
    with pytest.raises(HuggingFaceError, match="there is no such folder"):
        files_read("/nowhere/ast")


# The hub, without a network


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the hub's files are kept; it can't be reached."""
    transformers_library()
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_name_that_the_hub_does_not_give_is_refused(hub: Path) -> None:
    with pytest.raises(HuggingFaceError, match="no such folder, and the Hugging Face hub does not give it"):
        hugging_face_from_file("MIT/ast", classes=2)


def test_a_name_of_the_hub_is_read_from_what_was_downloaded(hub: Path, ast_folder: Path) -> None:
    kept = hub / "models--MIT--ast"
    shutil.copytree(ast_folder, kept / "snapshots" / "0123")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0123")
    assert hugging_face_from_file("MIT/ast", classes=2).extractor["num_mel_bins"] == 32
    assert [path.name for path in files_read("MIT/ast")] == [
        path.name for path in files_read(str(ast_folder))
    ]


def test_all_known_extractors_are_the_librarys() -> None:
    assert all(hasattr(transformers_library(), name) for name in EXTRACTORS)
