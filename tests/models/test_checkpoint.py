"""Starting from another model's weights, and files that hold a classifier alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaptf.models.checkpoint import (
    CheckpointError,
    initialise_from,
    load_classifier,
    load_network_weights,
    save_classifier,
    save_weights,
)
from adaptf.models.classifier import TFSEPNET, Classifier, ModelDescription, build_classifier

LABELS = ModelDescription(
    kind=TFSEPNET, classes=("Bird", "Rain", "Siren"), features={"bands": 64}, network={"width": 8, "depth": 17, "dropout": 0.1}
)
SCENES = replace(LABELS, classes=("bus", "park"))


def classifier_of(description: ModelDescription, seed: int) -> Classifier:
    torch.manual_seed(seed)
    return build_classifier(description)


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    return save_classifier(classifier_of(LABELS, 0), tmp_path / "pretrained.ckpt", epoch=3)


def test_a_start_takes_all_but_the_classifier_and_says_so(pretrained: Path) -> None:
    scenes = classifier_of(SCENES, 1)
    fresh = scenes.network.classifier.weight.clone()
    loaded = initialise_from(scenes, pretrained, skip="classifier.")
    source = load_classifier(pretrained).network.state_dict()
    state = scenes.network.state_dict()
    assert set(loaded.loaded) == set(state) - {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(state[name], source[name]) for name in loaded.loaded)
    assert set(loaded.fresh) == set(loaded.left_out) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(scenes.network.classifier.weight, fresh)


def test_the_list_of_what_was_loaded_names_parts_of_the_network(pretrained: Path) -> None:
    loaded, fresh, left_out = str(initialise_from(classifier_of(SCENES, 1), pretrained, skip="classifier.")).splitlines()
    assert loaded.startswith("- loaded (") and "stem.0" in loaded and "body.1" in loaded
    assert fresh == "- fresh (2 tensors): classifier"
    assert left_out == "- left out (2 tensors): classifier"


def test_the_classifier_is_loaded_too_where_the_classes_are_the_same(pretrained: Path) -> None:
    labels = classifier_of(LABELS, 1)
    loaded = initialise_from(labels, pretrained, skip="")
    assert not loaded.fresh and not loaded.left_out
    assert torch.equal(labels.network.classifier.weight, load_classifier(pretrained).network.classifier.weight)
    with pytest.raises(CheckpointError, match=r"classes is \['bus', 'park'\] here and \['Bird', 'Rain', 'Siren'\] there"):
        initialise_from(classifier_of(SCENES, 1), pretrained, skip="")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {"bands": 128}}, "bands is 128 here and 64 there"),
        ({"network": {"width": 16, "depth": 17}}, "width is 16 here and 8 there"),
        ({"network": {"width": 8, "depth": 12}}, "depth is 12 here and 17 there"),
    ],
)
def test_another_size_is_refused_with_both_values(pretrained: Path, changes: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"can't initialise this model: {message}"):
        initialise_from(classifier_of(replace(SCENES, **changes), 1), pretrained, skip="classifier.")


def test_a_public_checkpoint_of_another_width_is_refused_with_both_shapes(golden_folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"stem.0.conv.weight is \(4, 1, 3, 3\) here and \(32, 1, 3, 3\) there"):
        initialise_from(classifier_of(SCENES, 1), golden_folder / "tfsepnet64_d17.ckpt", skip="classifier.")


def test_weights_are_kept_without_what_a_trainer_needs(tmp_path: Path) -> None:
    classifier = classifier_of(SCENES, 0)
    state = {f"classifier.network.{name}": tensor for name, tensor in classifier.network.state_dict().items()}
    trainer = {
        "optimizer_states": [{"lr": 0.1}],
        "epoch": 7,
        "adaptf_model": SCENES.as_dict(),
        "state_dict": {**state, "other": torch.ones(1)},
    }
    torch.save(trainer, tmp_path / "trainer.ckpt")
    path = save_weights(tmp_path / "trainer.ckpt", tmp_path / "weights" / "best.ckpt")
    assert set(torch.load(path, weights_only=True)) == {"adaptf_model", "state_dict", "epoch"}
    clip = torch.randn(1, 32000)
    torch.testing.assert_close(load_classifier(path)(clip), classifier.eval()(clip))
    assert load_network_weights(classifier_of(SCENES, 5).network, path) == 7


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    first = save_classifier(classifier_of(SCENES, 0), tmp_path / "one" / "best.ckpt", epoch=3)
    second = save_classifier(classifier_of(SCENES, 0), tmp_path / "two" / "other.ckpt", epoch=3)
    assert first.read_bytes() == second.read_bytes()
