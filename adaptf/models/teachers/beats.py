"""BEATs as a teacher: a Transformer on patches of a spectrogram, pre-trained on AudioSet (Chen et al., ICML
2023).

The waveform's way is cut in two, because the augmentations act between both parts: `BeatsFeatures` makes the
spectrogram, `BeatsClassifier` makes logits of it.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from adaptf.audio import fbank, kaldi_mel
from adaptf.audio.fbank import BANDS, SAMPLE_RATE, Fbank
from adaptf.audio.logmel import CLIP_RATE
from adaptf.audio.torchaudio_import import import_torchaudio

_OLD_PREDICTOR = ("finetuned_model", "predictor_dropout", "predictor_class")


class BeatsFeatures(nn.Module):
    """Waveform (batch, samples) in [-1, 1] -> normalized energies (batch, 1, 128, frames), 98 a second."""

    def __init__(self, *, sample_rate: int = CLIP_RATE) -> None:
        super().__init__()
        # With the default width of 6 the bands from 6.5 kHz on already miss what a better resampler keeps.
        self.resample = import_torchaudio().transforms.Resample(
            sample_rate, SAMPLE_RATE, lowpass_filter_width=16
        )
        self.fbank = Fbank()

    def forward(self, waveform: Tensor) -> Tensor:
        # Squared 16-bit samples overflow half precision, and bfloat16 has too few digits for a filter.
        with torch.autocast(waveform.device.type, enabled=False):
            return self.fbank(self.resample(waveform.float())).transpose(1, 2).unsqueeze(1)


class BeatsEncoder(nn.Module):
    """Filterbank energies (batch, 1, 128, frames) -> tokens (batch, tokens, dim), one for every 16 x 16
    patch.

    `cfg` holds the settings of a BEATs checkpoint; unknown ones are left out, missing ones get speechbrain's
    defaults. The attribute `cfg` holds all settings in use, as plain values. The weights are random until
    they are loaded.
    """

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        super().__init__()
        beats = _speechbrain_beats()
        known = vars(beats.BEATsConfig())
        settings = beats.BEATsConfig({name: value for name, value in cfg.items() if name in known})
        self.cfg = {name: value for name, value in vars(settings).items() if name not in _OLD_PREDICTOR}
        self.patch_size, self.dim = settings.input_patch_size, settings.encoder_embed_dim
        self.patch_embedding = nn.Conv2d(
            1, settings.embed_dim, self.patch_size, stride=self.patch_size, bias=settings.conv_bias
        )
        self.layer_norm = nn.LayerNorm(settings.embed_dim)
        self.post_extract_proj = (
            nn.Linear(settings.embed_dim, self.dim) if settings.embed_dim != self.dim else None
        )
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
    """Filterbank energies (batch, 1, 128, frames) -> logits (batch, classes): a linear layer per token, then
    the mean.

    With `freeze_encoder` only the linear layer learns: the encoder gets no gradient and stays in evaluation
    mode.
    """

    def __init__(self, encoder: BeatsEncoder, *, classes: int, freeze_encoder: bool = False) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes should be at least 1, got {classes}")
        self.encoder, self.freeze_encoder = encoder, freeze_encoder
        self.classifier = nn.Linear(encoder.dim, classes)
        self.encoder.requires_grad_(not freeze_encoder)
        self.train(self.training)

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values from which, with `classes`, `rebuilt_beats` makes the network again."""
        return {"encoder": dict(self.encoder.cfg), "freeze_encoder": self.freeze_encoder}

    def train(self, mode: bool = True) -> "BeatsClassifier":
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        return self

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(self._tokens(features)).mean(dim=1)

    def embed(self, features: Tensor) -> Tensor:
        """Energies (batch, 1, 128, frames) -> mean over tokens (batch, dim), which the last layer takes."""
        return self._tokens(features).mean(dim=1)

    def _tokens(self, features: Tensor) -> Tensor:
        """(batch, tokens, dim)"""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            tokens: Tensor = self.encoder(features)
        return tokens


def rebuilt_beats(*, classes: int, encoder: Mapping[str, Any], freeze_encoder: bool) -> BeatsClassifier:
    """The network of these `settings`, with random weights."""
    return BeatsClassifier(BeatsEncoder(encoder), classes=classes, freeze_encoder=freeze_encoder)


def embedding_code() -> tuple[str, ...]:
    """What makes an embedding beside the weights: the code of features and encoder, and the libraries."""
    code = (inspect.getsource(module) for module in (kaldi_mel, fbank, sys.modules[__name__]))
    return *code, *(version(package) for package in ("torch", "torchaudio", "speechbrain"))


def _speechbrain_beats() -> ModuleType:
    """speechbrain's BEATs module, imported late because it takes a second and only a teacher needs it."""
    import_torchaudio()
    # Left alone, importing speechbrain turns TF32 on and the JIT's profiler off in the whole process.
    os.environ.setdefault("SB_DISABLE_QUIRKS", "allow_tf32,disable_jit_profiling")
    beats = importlib.import_module("speechbrain.lobes.models.beats")
    # Old names, kept among the modules, that import k2 and the like as soon as anybody looks at one, as
    # debuggers and tests do.
    for name in [
        name for name, module in sys.modules.items() if type(module).__name__ == "DeprecatedModuleRedirect"
    ]:
        del sys.modules[name]
    return beats
