"""The folder of an audio classifier of the library transformers, or the hub's:
read without running any code in it, and checked."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adaptf.audio.fbank import SAMPLE_RATE
from adaptf.audio.logmel import CLIP_RATE
from adaptf.errors import UserError
from adaptf.models.teachers.hugging_face import (
    EXTRACTORS,
    HuggingFaceClassifier,
    HuggingFaceFeatures,
    transformers_library,
)
from adaptf.models.torch_file import brief, check_finite

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_READ = ("*.json", "*.safetensors")
_CODE = ("auto_map", "attn_implementation")
"""Keys of a description by which it could have code loaded that is no part of the library."""
_OFFLINE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
_AST = "audio-spectrogram-transformer"
_SPECIAL_TOKENS = 2
"""Of an Audio Spectrogram Transformer: they stand before the patches."""
_RIGHT = (
    "Give a folder that save_pretrained has written, of an audio classifier and of its feature extractor "
    "(config.json, preprocessor_config.json, model.safetensors), or a name of the Hugging Face hub such as "
    "MIT/ast-finetuned-audioset-10-10-0.4593"
)


class HuggingFaceError(UserError):
    """What can't be used as an audio classifier of transformers:
    the message says why, and what would be right."""

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(f"file {file!r}: {problem}. {_RIGHT}")


def files_read(file: str) -> list[Path]:
    """The files of a folder, or of the hub's name, that decide which network it is.
    Raises HuggingFaceError."""
    folder = _folder(file)
    return sorted(path for pattern in _READ for path in folder.glob(pattern))


def hugging_face_from_file(file: str, *, classes: int) -> HuggingFaceClassifier:
    """The network in a folder, or of the hub's name, with a new classifier, on the CPU.

    An Audio Spectrogram Transformer gets as many positions as a second has frames. Raises HuggingFaceError
    where there is none, where its weights are no safetensors, or where it wants code of its own.
    No code in the folder is run.
    """
    folder = _folder(file)
    _check_descriptions(file, folder)
    _check_weights(file, folder)
    library = transformers_library()
    with _refused(file, "the library transformers can't read it"):
        extractor = json.loads(
            library.AutoFeatureExtractor.from_pretrained(folder, **_OFFLINE).to_json_string()
        )
        network, found = library.AutoModelForAudioClassification.from_pretrained(
            folder,
            num_labels=classes,
            ignore_mismatched_sizes=True,  # of the old classifier
            output_loading_info=True,
            use_safetensors=True,
            dtype=torch.float32,
            **_OFFLINE,
        )
    _check_extractor(file, extractor)
    _check_loaded(file, network, found)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    last.reset_parameters()  # also where the old classifier had as many classes
    with _refused(file, "it can't hear a second"), torch.no_grad():
        silence = HuggingFaceFeatures(extractor=extractor)(torch.zeros(1, CLIP_RATE))
        if network.config.model_type == _AST:
            _cut_positions(network, frames=silence.shape[3])
        classifier = HuggingFaceClassifier(network, extractor)
        classifier(silence)
    return classifier.train()  # the library leaves it in evaluation mode


@contextmanager
def _refused(file: str, problem: str) -> Iterator[None]:
    """Whatever goes wrong within, which the library says in errors of many kinds,
    becomes a HuggingFaceError."""
    try:
        yield
    except Exception as error:
        raise HuggingFaceError(file, f"{problem} ({brief(error)})") from error


def _folder(file: str) -> Path:
    """The folder, or that to which the hub's files are downloaded, or were before."""
    if os.path.isdir(file):
        return Path(file)
    if not _HUB_NAME.fullmatch(file):
        raise HuggingFaceError(file, "there is no such folder")
    transformers_library()
    import huggingface_hub  # late, as transformers is

    with _refused(file, "there is no such folder, and the Hugging Face hub does not give it"):
        return Path(huggingface_hub.snapshot_download(file, allow_patterns=list(_READ)))


def _check_descriptions(file: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise HuggingFaceError(file, "there is no config.json in it")
    for path in folder.glob("*config.json"):
        with _refused(file, f"{path.name} can't be read as JSON"):
            content = json.loads(path.read_text())
        if named := [key for key in _CODE if key in content]:
            raise HuggingFaceError(
                file,
                f"{path.name} names code of its own ({named[0]}), which is not run: it should be a network "
                f"that transformers itself has",
            )


def _check_weights(file: str, folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    left = f"{os.path.basename(file)}-safetensors"
    code = (
        f'import transformers as t; [getattr(t, one).from_pretrained("{file}").save_pretrained("{left}") '
        'for one in ("AutoModelForAudioClassification", "AutoFeatureExtractor")]'
    )
    raise HuggingFaceError(
        file,
        "its weights are no safetensors, and only such are read, because other files can hold code. Where "
        f"you trust them, write them anew: python -c '{code}'",
    )


def _check_extractor(file: str, extractor: dict[str, Any]) -> None:
    kind, rate = extractor["feature_extractor_type"], extractor["sampling_rate"]
    if kind not in EXTRACTORS or rate != SAMPLE_RATE:
        raise HuggingFaceError(
            file,
            f"its features come from {kind} at {rate} Hz, those that are known here from "
            f"{' or '.join(EXTRACTORS)} at {SAMPLE_RATE} Hz",
        )


def _check_loaded(file: str, network: Any, found: dict[str, Any]) -> None:
    """Nothing but the classifier may be new, and all weights are to be finite."""
    new = [*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])]
    if lacking := sorted(name for name in new if name.startswith(f"{network.base_model_prefix}.")):
        raise HuggingFaceError(
            file,
            f"{len(lacking)} weights, such as {lacking[0]}, are not in it, or of another shape than its "
            "config.json says",
        )
    with _refused(file, "its weights are damaged"):
        check_finite(network.state_dict())


def _cut_positions(network: Any, *, frames: int) -> None:
    """Leaves the positions in the middle, as Gong et al. (2021) cut them for clips that are shorter than
    AudioSet's: a second takes 9 steps of time in the place of 101, most of which would be padding."""
    embeddings, config = network.base_model.embeddings, network.config
    bands, steps = embeddings.get_shape(config)
    config.max_length = min(frames, config.max_length)
    kept = embeddings.get_shape(config)[1]
    first = (steps - kept) // 2
    special, patches = embeddings.position_embeddings.data.split([_SPECIAL_TOKENS, bands * steps], dim=1)
    patches = patches.unflatten(1, (bands, steps))[:, :, first : first + kept].flatten(1, 2)
    embeddings.position_embeddings = nn.Parameter(torch.cat([special, patches], dim=1))
