"""BEATs as a teacher: a Transformer on patches of a spectrogram, pre-trained on AudioSet (Chen et al., ICML 2023).

The waveform's way is cut in two, because the augmentations act between both parts: `BeatsFeatures` makes the
spectrogram, `BeatsClassifier` makes logits of it.
"""

import importlib
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from adaptf.audio.fbank import BANDS, SAMPLE_RATE, Fbank
from adaptf.audio.torchaudio_import import import_torchaudio
from adaptf.errors import UserError

WHERE_FROM = (
    "BEATs checkpoints come from the beats folder of the repository microsoft/unilm on GitHub: "
    "BEATs_iter3_plus_AS2M.pt (SSL and SSL*) and BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt (SSL+SL). "
    "The download links die often: get the file once, keep it, and give its local path."
)
OLD_PREDICTOR = ("finetuned_model", "predictor_dropout", "predictor_class")
ZIP_MAGIC, PICKLE_MAGIC = b"PK\x03\x04", b"\x80"
"""What a file of torch.save begins with, since PyTorch 1.6 and before."""
BAD_CONTENT = (ArithmeticError, AssertionError, AttributeError, RuntimeError, TypeError, ValueError)
"""What speechbrain and PyTorch raise over settings that describe no network, or weights of another one."""


class BeatsFileError(UserError):
    """A file that is no BEATs checkpoint: the message says which file, what is wrong with it, and where to get one."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"BEATs file {str(path)!r}: {problem}. {WHERE_FROM}")


class BeatsFeatures(nn.Module):
    """Waveform (batch, samples) in [-1, 1] -> normalized filterbank energies (batch, 1, 128, frames), 98 a second."""

    def __init__(self, *, sample_rate: int = 32000) -> None:
        super().__init__()
        # With the default width of 6 the bands from 6.5 kHz on already miss what a better resampler keeps.
        self.resample = import_torchaudio().transforms.Resample(sample_rate, SAMPLE_RATE, lowpass_filter_width=16)
        self.fbank = Fbank()

    def forward(self, waveform: Tensor) -> Tensor:
        # Squared 16-bit samples overflow half precision, and bfloat16 has too few digits for a filter.
        with torch.autocast(waveform.device.type, enabled=False):
            return self.fbank(self.resample(waveform.float())).transpose(1, 2).unsqueeze(1)


class BeatsEncoder(nn.Module):
    """Filterbank energies (batch, 1, 128, frames) -> tokens (batch, tokens, dim), one for every 16 x 16 patch.

    `cfg` holds the settings of a BEATs checkpoint; unknown ones are left out, missing ones get speechbrain's defaults.
    The attribute `cfg` holds all settings in use, as plain values. The weights are random until they are loaded.
    """

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        super().__init__()
        beats = _speechbrain_beats()
        known = vars(beats.BEATsConfig())
        settings = beats.BEATsConfig({name: value for name, value in cfg.items() if name in known})
        self.cfg = {name: value for name, value in vars(settings).items() if name not in OLD_PREDICTOR}
        self.patch_size, self.dim = settings.input_patch_size, settings.encoder_embed_dim
        self.patch_embedding = nn.Conv2d(
            1, settings.embed_dim, self.patch_size, stride=self.patch_size, bias=settings.conv_bias
        )
        self.layer_norm = nn.LayerNorm(settings.embed_dim)
        self.post_extract_proj = nn.Linear(settings.embed_dim, self.dim) if settings.embed_dim != self.dim else None
        self.dropout_input = nn.Dropout(settings.dropout_input)
        self.encoder = beats.TransformerEncoder(settings)

    def forward(self, features: Tensor) -> Tensor:
        if features.ndim != 4 or features.shape[1:3] != (1, BANDS) or features.shape[3] < self.patch_size:
            raise ValueError(
                f"features should be (batch, 1, {BANDS}, frames) with at least {self.patch_size} frames, "
                f"got {tuple(features.shape)}"
            )
        patches = self.patch_embedding(features.transpose(2, 3))  # [b, embed_dim, time, frequency]
        tokens = self.layer_norm(patches.flatten(2).transpose(1, 2))
        if self.post_extract_proj is not None:
            tokens = self.post_extract_proj(tokens)
        encoded: Tensor = self.encoder(self.dropout_input(tokens))[0]
        return encoded


class BeatsClassifier(nn.Module):
    """Filterbank energies (batch, 1, 128, frames) -> logits (batch, classes): a linear layer per token, then the mean.

    With `freeze_encoder` only the linear layer learns: the encoder gets no gradient and stays in evaluation mode.
    """

    def __init__(self, encoder: BeatsEncoder, *, classes: int, freeze_encoder: bool = False) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes should be at least 1, got {classes}")
        self.encoder, self.classes, self.freeze_encoder = encoder, classes, freeze_encoder
        self.classifier = nn.Linear(encoder.dim, classes)
        self.encoder.requires_grad_(not freeze_encoder)
        self.train(self.training)

    @classmethod
    def from_state(cls, cfg: Mapping[str, Any], state: Mapping[str, Tensor]) -> "BeatsClassifier":
        """Rebuilds a classifier from its `cfg` and its state dict, without the BEATs file.

        Raises KeyError where `cfg` lacks an entry, RuntimeError where the weights belong to another network.
        """
        classifier = cls(BeatsEncoder(cfg["encoder"]), classes=cfg["classes"], freeze_encoder=cfg["freeze_encoder"])
        classifier.load_state_dict(state)
        return classifier

    @property
    def cfg(self) -> dict[str, Any]:
        """Plain values that rebuild the network with `from_state`."""
        return {"encoder": dict(self.encoder.cfg), "classes": self.classes, "freeze_encoder": self.freeze_encoder}

    def train(self, mode: bool = True) -> "BeatsClassifier":
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        return self

    def forward(self, features: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            tokens = self.encoder(features)
        return self.classifier(tokens).mean(dim=1)


class BeatsTeacher(nn.Module):
    """Waveform (batch, samples) at 32 kHz in [-1, 1] -> logits (batch, classes): `features`, then `network`."""

    def __init__(self, network: BeatsClassifier, *, sample_rate: int = 32000) -> None:
        super().__init__()
        self.features = BeatsFeatures(sample_rate=sample_rate)
        self.network = network

    def forward(self, waveform: Tensor) -> Tensor:
        return self.network(self.features(waveform))


def load_beats(path: str | os.PathLike[str]) -> BeatsEncoder:
    """The pre-trained encoder of a BEATs checkpoint file, on the CPU; the predictor of a fine-tuned one is dropped.

    Raises BeatsFileError where the file is absent, damaged, of another kind, or holds weights of other shapes. No code
    in the file is run.
    """
    path = Path(path)
    cfg, weights = _cfg_and_weights(path, _read(path))
    try:
        encoder = BeatsEncoder(cfg)
    except BAD_CONTENT as error:
        raise BeatsFileError(path, f"its cfg describes no BEATs network ({_brief(error)})") from error
    try:
        encoder.load_state_dict(weights)
    except BAD_CONTENT as error:
        raise BeatsFileError(path, f"its weights do not fit the network of its cfg ({_brief(error)})") from error
    return encoder


def _read(path: Path) -> Any:
    """What torch.save wrote, tensors and plain values only."""
    if not path.is_file():
        raise BeatsFileError(path, "it is a folder" if path.is_dir() else "there is no such file")
    with path.open("rb") as file:
        start = file.read(8)
    if not start.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        raise BeatsFileError(path, f"it was not written by torch.save (it begins with {start!r})")
    try:
        if start.startswith(ZIP_MAGIC):
            _compare_checksums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message, which would follow in a chain, advises to read the file without the check.
        raise BeatsFileError(path, _refusal(str(error))) from None
    except Exception as error:  # damaged bytes can break the reader anywhere
        raise BeatsFileError(path, f"it is cut off or damaged ({_brief(error)})") from error


def _compare_checksums(path: Path) -> None:
    """PyTorch's reader takes changed bytes for weights; the file's own checksums tell."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"bad checksum of {damaged}")


def _refusal(message: str) -> str:
    named = re.search(r"GLOBAL (\S+)", message)
    what = f"names code ({named[1]})" if named else "holds more than tensors and plain values, or is damaged"
    return f"PyTorch refuses to read it, because it {what}, and reading it could run code; nothing in it was run"


def _cfg_and_weights(path: Path, checkpoint: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings and the encoder's weights of a BEATs checkpoint, without an old predictor."""
    if not isinstance(checkpoint, dict):
        raise BeatsFileError(path, f"it should hold two dicts named 'cfg' and 'model', but is a {type(checkpoint).__name__}")
    cfg, weights = checkpoint.get("cfg"), checkpoint.get("model")
    if not isinstance(cfg, dict) or not isinstance(weights, dict):
        names = ", ".join(repr(key) for key in list(checkpoint)[:8])
        raise BeatsFileError(path, f"it should hold two dicts named 'cfg' and 'model', but holds {names or 'nothing'}")
    return cfg, {name: weight for name, weight in weights.items() if not str(name).startswith("predictor.")}


def _brief(error: Exception, limit: int = 300) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:limit]}{'...' if len(text) > limit else ''}"


def _speechbrain_beats() -> ModuleType:
    """speechbrain's BEATs module, imported late because it takes a second and only a teacher needs it."""
    import_torchaudio()
    # Left alone, importing speechbrain turns TF32 on and the JIT's profiler off in the whole process.
    os.environ.setdefault("SB_DISABLE_QUIRKS", "allow_tf32,disable_jit_profiling")
    return importlib.import_module("speechbrain.lobes.models.beats")
