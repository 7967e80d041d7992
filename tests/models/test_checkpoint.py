"""Starting from another model's weights, files that hold a classifier alone,
and files as other trainers leave them."""

import argparse
import functools
import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptf.models.checkpoint import (
    CheckpointError,
    initialise_from,
    load_classifier,
    load_network_weights,
    read_checkpoint,
    save_classifier,
    save_weights,
)
from adaptf.models.classifier import Classifier, ModelDescription, build_classifier
from adaptf.models.students.registry import TFSEPNET
from adaptf.models.students.tfsepnet.public_checkpoint import CLASSES

LABELS = ModelDescription(
    kind=TFSEPNET,
    classes=("Bird", "Rain", "Siren"),
    features={"bands": 64},
    network={"width": 8, "depth": 17, "dropout": 0.1},
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
    loaded = initialise_from(scenes, pretrained)
    source = load_classifier(pretrained).network.state_dict()
    state = scenes.network.state_dict()
    assert set(loaded.loaded) == set(state) - {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(state[name], source[name]) for name in loaded.loaded)
    assert set(loaded.fresh) == set(loaded.left_out) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(scenes.network.classifier.weight, fresh)


def test_the_list_of_what_was_loaded_names_parts_of_the_network(pretrained: Path) -> None:
    loaded, fresh, left_out = str(initialise_from(classifier_of(SCENES, 1), pretrained)).splitlines()
    assert loaded.startswith("- loaded (") and "stem.0" in loaded and "body.1" in loaded
    assert fresh == "- fresh (2 tensors): classifier"
    assert left_out == "- left out (2 tensors): classifier"


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
        initialise_from(classifier_of(replace(SCENES, **changes), 1), pretrained)


def test_a_public_checkpoint_of_another_width_is_refused_with_both_shapes(golden_folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"stem.0.conv.weight is \(4, 1, 3, 3\) here and \(32, 1, 3, 3\) there"
    ):
        initialise_from(classifier_of(SCENES, 1), golden_folder / "tfsepnet64_d17.ckpt")


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


PUBLIC = ModelDescription(kind=TFSEPNET, classes=CLASSES)
CALLS: list[str] = []


def spring(what: str) -> None:
    CALLS.append(what)


class Trap:
    """Unpickled by pickle itself it calls a function, as pickled settings of a trainer do."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return spring, ("sprung",)


class OsTrap:
    """The same with a module that PyTorch's reader never lets a file name."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, ("true",)


@pytest.fixture
def public_state(golden_folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(golden_folder / "tfsepnet64_d17.ckpt", weights_only=True)[
        "state_dict"
    ]
    return state


@pytest.fixture
def as_lightning_leaves_it(public_state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """Optimizer states, callbacks, loops and hyper-parameters with pickled objects beside the weights."""
    beside = {
        "epoch": 140,
        "global_step": 19317,
        "pytorch-lightning_version": "2.2.0",
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_acc'}": {"best_model_path": Path("log/best.ckpt")}},
        "optimizer_states": [
            {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.004, "betas": (0.9, 0.999)}]}
        ],
        "lr_schedulers": [{"T_0": 10}],
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "optimizer": functools.partial(torch.optim.Adam, lr=0.004),
            "data_augmentation": {"mix_up": argparse.Namespace(alpha=0.3), "dir_aug": torch.nn.Linear(2, 2)},
            "accuracy": np.float64(0.5),
            "trap": Trap(),
        },
    }
    torch.save({"state_dict": public_state, **beside}, tmp_path / "lightning.ckpt")
    return tmp_path / "lightning.ckpt"


def test_a_lightning_checkpoint_with_pickled_settings_is_read_and_nothing_in_it_runs(
    as_lightning_leaves_it: Path, golden_folder: Path
) -> None:
    CALLS.clear()
    logmel = torch.randn(1, 1, 512, 64, generator=torch.Generator().manual_seed(0))
    found = load_classifier(as_lightning_leaves_it, public_description=PUBLIC).network(logmel)
    expected = load_classifier(golden_folder / "tfsepnet64_d17.ckpt", public_description=PUBLIC).network(
        logmel
    )
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    assert not CALLS
    torch.load(as_lightning_leaves_it, weights_only=False)
    assert CALLS == ["sprung"]


def test_settings_of_one_file_open_no_door_for_the_next(as_lightning_leaves_it: Path) -> None:
    before = torch.serialization.get_safe_globals()
    read_checkpoint(as_lightning_leaves_it)
    assert set(torch.serialization.get_safe_globals()) == set(before)
    assert "functools.partial" in torch.serialization.get_unsafe_globals_in_checkpoint(as_lightning_leaves_it)


def test_what_cannot_be_read_without_running_code_is_refused_with_a_way_out(
    public_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "it's os.ckpt"
    torch.save({"state_dict": public_state, "hyper_parameters": {"trap": OsTrap()}}, path)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert (
        "names code (posix.system)" in message
        and "nothing in it was run" in message
        and "weights_only=True" not in message
    )
    *_, code = shlex.split(message.partition("python -c ")[2])
    exec(code, {})
    assert (
        load_classifier(tmp_path / "it's os.tensors.ckpt", public_description=PUBLIC).description.classes
        == CLASSES
    )


def test_a_state_dict_that_holds_more_than_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"backbone.conv_layers.0._conv.weight": Trap()}}, tmp_path / "trap.ckpt")
    with pytest.raises(CheckpointError, match=r"its 'state_dict' should hold tensors by name"):
        read_checkpoint(tmp_path / "trap.ckpt")


def test_an_archive_of_arrays_is_as_good_as_the_checkpoint(
    public_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **{name: tensor.numpy() for name, tensor in public_state.items()})
    (tmp_path / "a.npz").rename(tmp_path / "A.NPZ")
    found = load_classifier(tmp_path / "A.NPZ", public_description=PUBLIC).network.state_dict()
    assert torch.equal(found["classifier.weight"], public_state["backbone.classifier.conv.weight"])


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 100] = bytes(100)
    path.write_bytes(content)


def text(path: Path) -> None:
    path.write_text("filename,scene\n")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pickled_array(path: Path) -> None:
    np.savez(path.with_suffix(".npz"), weight=np.array([Trap()]))
    path.with_suffix(".npz").rename(path)


@pytest.mark.parametrize("ending", [".ckpt", ".npz"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut_off, "it is cut off or damaged"),
        (damaged, "it is cut off or damaged .*bad checksum"),
        (text, "it was not written by torch.save .*filename|it is cut off or damaged"),
        (folder, "it is a folder"),
        (Path.unlink, "there is no such file"),
        (pickled_array, "no archive of arrays|holds more than tensors|cut off or damaged"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_with_the_reason(
    spoil: Callable[[Path], None],
    message: str,
    ending: str,
    public_state: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    path = tmp_path / f"a{ending}"
    if ending == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in public_state.items()})
    else:
        torch.save({"state_dict": public_state}, path)
    CALLS.clear()
    spoil(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not CALLS


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (
            replace(PUBLIC, network={"width": 32}),
            r"stem.0.conv.weight is \(16, 1, 3, 3\) here and \(32, 1, 3, 3\) there",
        ),
        (
            replace(PUBLIC, classes=CLASSES[:9]),
            r"classifier.weight is \(9, 160, 1, 1\) here and \(10, 160, 1, 1\) there",
        ),
        (
            replace(PUBLIC, network={"depth": 14}),
            r"does not fit a network of tfsepnet for 10 classes, depth 14: body.14",
        ),
    ],
)
def test_weights_of_another_network_are_refused_in_a_line(
    description: ModelDescription, message: str, golden_folder: Path
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_classifier(golden_folder / "tfsepnet64_d17.ckpt", public_description=description)
    assert "\n" not in str(caught.value)


def test_scenes_in_another_order_can_start_from_a_public_checkpoint(golden_folder: Path) -> None:
    reordered = replace(PUBLIC, classes=CLASSES[::-1])
    assert initialise_from(build_classifier(reordered), golden_folder / "tfsepnet64_d17.ckpt").loaded


def test_a_description_of_another_program_is_refused(tmp_path: Path) -> None:
    for stored in (
        {"kind": "resnet", "classes": ["a"]},
        {"classes": ["a"]},
        {"kind": TFSEPNET, "classes": ["a"], "width": 1},
    ):
        torch.save({"adaptf_model": stored, "state_dict": {}}, tmp_path / "other.ckpt")
        with pytest.raises(
            CheckpointError, match=r"other.ckpt (describes no model that is known|does not say which model)"
        ):
            load_classifier(tmp_path / "other.ckpt")


@pytest.mark.parametrize("ending", [".ckpt", ".npz"])
def test_a_file_that_may_not_be_read_is_named(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    path = tmp_path / f"a{ending}"
    path.touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        CheckpointError, match=rf"checkpoint .*/a{ending}: it can't be read \(Permission denied\)"
    ):
        load_classifier(path)
