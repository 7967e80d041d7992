"""Checkpoints on disk: a model's description and weights, and whatever a trainer keeps beside them."""

import io
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptf.errors import UserError
from adaptf.files import write_atomically
from adaptf.models.classifier import Classifier, ModelDescription, build_classifier
from adaptf.models.students.registry import TFSEPNET
from adaptf.models.students.tfsepnet.public_checkpoint import from_public, is_public
from adaptf.models.torch_file import (
    NamesCode,
    UnreadableFile,
    brief,
    check_finite,
    compare_checksums,
    read_start,
    read_torch_file,
)

_ARRAYS = ".npz"
"""Ending of an archive of tensors, which numpy.savez writes."""
MODEL_KEY = "adaptf_model"
_NETWORK_PREFIX = "classifier.network."
"""Where a training task keeps the network among its own tensors."""


_LAST_LAYER = "classifier."


class CheckpointError(UserError):
    """A file that is no checkpoint of a classifier, or of another one than asked for."""


@dataclass(frozen=True)
class _Loaded:
    """Names in the network's state dict, for telling the user what a start from another model means."""

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    left_out: tuple[str, ...]
    """In the checkpoint, and not wanted."""

    def __str__(self) -> str:
        parts = {"loaded": self.loaded, "fresh": self.fresh, "left out": self.left_out}
        return "\n".join(
            f"- {what} ({len(names)} tensors): {', '.join(_parts(names)) or '-'}"
            for what, names in parts.items()
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, or of an .npz archive of tensors, without running any code that it
    may name.

    Its 'state_dict' holds tensors by name; what a trainer keeps beside them may be left out.
    """
    try:
        content = (
            {"state_dict": _read_arrays(path)}
            if path.suffix.lower() == _ARRAYS
            else read_torch_file(path, stand_ins=True)
        )
    except NamesCode as error:
        raise CheckpointError(f"checkpoint {path}: {error}. {_way_out(path)}") from None
    except UnreadableFile as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error.__cause__
    if not isinstance(content, dict) or "state_dict" not in content:
        raise CheckpointError(f"{path} is no checkpoint of a trainer: it has no 'state_dict'")
    state = content["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(
            f"{path} is no checkpoint of a trainer: its 'state_dict' should hold tensors by name"
        )
    try:
        check_finite(state)
    except UnreadableFile as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from None
    return content


def _read_arrays(path: Path) -> dict[str, Tensor]:
    """Of an archive that numpy.savez wrote."""
    read_start(path)
    compare_checksums(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, TypeError, ValueError) as error:
        raise UnreadableFile(f"it is no archive of arrays ({brief(error)})") from error


def _way_out(path: Path) -> str:
    """A command for the user, which leaves tensors alone."""
    given, left = (
        json.dumps(str(one), ensure_ascii=False) for one in (path, path.with_suffix(".tensors.ckpt"))
    )
    code = (
        f'import torch; content = torch.load({given}, map_location="cpu", weights_only=False); '
        f'torch.save({{"state_dict": content["state_dict"]}}, {left})'
    )
    way = "Where you trust it and may run what is in it, take its tensors out of it"
    return f"{way}: python -c {shlex.quote(code)}"


def save_weights(trained: Path, path: Path) -> Path:
    """Writes the classifier of a trainer's checkpoint, without optimizer, counters of batches or folders, and
    returns `path`.

    Trainings alike leave the same bytes.
    """
    content = read_checkpoint(trained)
    weights = _network_weights(content["state_dict"])
    return _write(path, content[MODEL_KEY], weights, epoch=content["epoch"])


def save_classifier(classifier: Classifier, path: Path, *, epoch: int) -> Path:
    """Writes a classifier as `save_weights` does."""
    return _write(path, classifier.description.as_dict(), classifier.network.state_dict(), epoch=epoch)


def _write(path: Path, description: dict[str, Any], weights: dict[str, Tensor], *, epoch: int) -> Path:
    state = {f"{_NETWORK_PREFIX}{name}": tensor for name, tensor in weights.items()}
    written = io.BytesIO()
    torch.save({MODEL_KEY: description, "state_dict": state, "epoch": epoch}, written)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, written.getvalue())
    return path


def load_classifier(path: Path, *, public_description: ModelDescription | None = None) -> Classifier:
    """The classifier of a checkpoint, in evaluation mode.

    A checkpoint of the public reference trainer does not say what it is: `public_description` does.
    """
    description, weights = _read_network(path, public_description)
    try:
        with torch.random.fork_rng(
            devices=[]
        ):  # the fresh weights are overwritten: nobody's later draws should change
            classifier = build_classifier(description)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} describes no model that is known here ({brief(error)})") from error
    ours = classifier.network.state_dict()
    _check_shapes(weights, ours, path)
    if wrong := sorted(weights.keys() ^ ours.keys()):
        raise CheckpointError(
            f"{path} does not fit a network of {_size(description)}: {', '.join(wrong[:5])}"
        )
    classifier.network.load_state_dict(weights)
    return classifier.eval()


def _size(description: ModelDescription) -> str:
    """In words."""
    settings = ", ".join(
        f"{name} {value}" for name, value in description.network.items() if isinstance(value, int)
    )
    return ", ".join(filter(None, [f"{description.kind} for {len(description.classes)} classes", settings]))


def load_network_weights(network: nn.Module, path: Path) -> int:
    """Loads what `save_weights` wrote into a network of the same shape, and returns its epoch."""
    content = read_checkpoint(path)
    network.load_state_dict(_network_weights(content["state_dict"]))
    return int(content["epoch"])


def initialise_from(classifier: Classifier, path: Path) -> _Loaded:
    """Loads a checkpoint's weights except those of its last layer, which is for other classes.

    Raises CheckpointError naming both values where bands, width, depth or another setting differ. A
    checkpoint of the public trainer tells shapes alone.
    """
    description, weights = _read_network(path, classifier.description)
    mine, theirs = classifier.description, description
    settings: list[tuple[str, Any, Any]] = [("kind", mine.kind, theirs.kind)]
    for ours, other in ((mine.features, theirs.features), (mine.network, theirs.network)):
        settings += [
            (name, ours.get(name), other.get(name)) for name in sorted({*ours, *other} - {"dropout"})
        ]
    different = [f"{name} is {own} here and {other} there" for name, own, other in settings if own != other]
    if different:
        raise CheckpointError(f"{path} can't initialise this model: {'; '.join(different)}")
    left_out = tuple(name for name in weights if name.startswith(_LAST_LAYER))
    kept = {name: tensor for name, tensor in weights.items() if name not in left_out}
    _check_shapes(kept, classifier.network.state_dict(), path)
    result = classifier.network.load_state_dict(kept, strict=False)
    fresh = tuple(result.missing_keys)
    wrong = [name for name in fresh if not name.startswith(_LAST_LAYER)] + list(result.unexpected_keys)
    if wrong:
        raise CheckpointError(f"{path} does not fit this network: {', '.join(wrong[:5])}")
    return _Loaded(loaded=tuple(kept), fresh=fresh, left_out=left_out)


def _check_shapes(theirs: dict[str, Tensor], ours: dict[str, Tensor], path: Path) -> None:
    """A checkpoint of the public trainer does not say its settings, but its shapes do."""
    wrong = [name for name, tensor in theirs.items() if name in ours and tensor.shape != ours[name].shape]
    if wrong:
        here, there = tuple(ours[wrong[0]].shape), tuple(theirs[wrong[0]].shape)
        raise CheckpointError(
            f"{path} does not fit this model: {wrong[0]} is {here} here and {there} there, {len(wrong) - 1} "
            f"more differ (another width, another depth or other classes)"
        )


def _parts(names: tuple[str, ...]) -> list[str]:
    """The parts of the network to which tensors belong: 'body.3.transition.conv.weight' -> 'body.3'."""
    return list(dict.fromkeys(".".join(name.split(".")[:-1][:2]) for name in names))


def _read_network(
    path: Path, public_description: ModelDescription | None
) -> tuple[ModelDescription, dict[str, Tensor]]:
    content = read_checkpoint(path)
    state = content["state_dict"]
    if is_public(state):
        if public_description is None or public_description.kind != TFSEPNET:
            raise CheckpointError(f"{path} is a checkpoint of the public trainer: it fits TF-SepNet only")
        return public_description, from_public(state)
    if MODEL_KEY not in content:
        raise CheckpointError(f"{path} is neither a checkpoint of adaptf nor of easy_dcase_task1")
    stored = content[MODEL_KEY]
    try:
        description = ModelDescription(**(stored | {"classes": tuple(stored["classes"])}))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} does not say which model it is ({brief(error)})") from error
    return description, _network_weights(state)


def _network_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors, by their names in the network."""
    start = _NETWORK_PREFIX
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
