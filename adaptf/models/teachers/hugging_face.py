"""Audio classifiers of the library transformers as teachers,
such as the Audio Spectrogram Transformer (Gong et al., Interspeech 2021).

As with BEATs the waveform's way is cut in two: the library's own feature extractors work clip by clip on the
CPU, so those that are known here are rebuilt from their settings,
on whole batches and on the training device.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from adaptf.audio.fbank import SAMPLE_RATE, Fbank
from adaptf.audio.logmel import CLIP_RATE
from adaptf.audio.torchaudio_import import import_torchaudio

_HANN = 1.0
_VARIANCE_FLOOR = 1e-7
"""What the library adds to a waveform's variance."""


class _Spectrogram(nn.Module):
    """ASTFeatureExtractor: waveform (batch, samples) -> log filterbank energies (batch, 1, bands, frames)."""

    def __init__(self, extractor: Mapping[str, Any]) -> None:
        super().__init__()
        scaled = extractor["do_normalize"]
        mean, std = (extractor["mean"], extractor["std"]) if scaled else (0.0, 0.5)
        bands = extractor["num_mel_bins"]
        self.fbank = Fbank(bands=bands, scale=1.0, window_exponent=_HANN, mean=mean, std=std)
        self.most_frames = extractor["max_length"]

    def forward(self, waveform: Tensor) -> Tensor:
        return self.fbank(waveform)[:, : self.most_frames].mT.unsqueeze(1)


class _Waveform(nn.Module):
    """Wav2Vec2FeatureExtractor: waveform (batch, samples) -> the same (batch, 1, 1, samples), with a mean of
    0 and a variance of 1 where the network wants it so."""

    def __init__(self, extractor: Mapping[str, Any]) -> None:
        super().__init__()
        self.scaled = extractor["do_normalize"]

    def forward(self, waveform: Tensor) -> Tensor:
        if self.scaled:
            variance, mean = torch.var_mean(waveform, dim=1, keepdim=True, correction=0)
            waveform = (waveform - mean) / (variance + _VARIANCE_FLOOR).sqrt()
        return waveform[:, None, None]


EXTRACTORS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "ASTFeatureExtractor": _Spectrogram,
    "Wav2Vec2FeatureExtractor": _Waveform,
}
"""The library's feature extractors that are known here, all for 16 kHz."""


class HuggingFaceFeatures(nn.Module):
    """Waveform (batch, samples) in [-1, 1] -> what the library's feature extractor of these settings makes of
    it, without its padding: (batch, 1, bands, frames),
    or (batch, 1, 1, samples) of a network that takes waveforms."""

    def __init__(self, *, extractor: Mapping[str, Any], sample_rate: int = CLIP_RATE) -> None:
        super().__init__()
        self.resample = import_torchaudio().transforms.Resample(
            sample_rate, SAMPLE_RATE, lowpass_filter_width=16
        )
        self.extract = EXTRACTORS[extractor["feature_extractor_type"]](extractor)

    def forward(self, waveform: Tensor) -> Tensor:
        # Half precision has too few digits for filters and energies.
        with torch.autocast(waveform.device.type, enabled=False):
            return self.extract(self.resample(waveform.float()))


class HuggingFaceClassifier(nn.Module):
    """Features (batch, 1, bands, frames) -> logits (batch, classes), by a classifier of the library.

    `extractor` holds the settings of its feature extractor.
    """

    def __init__(self, network: Any, extractor: Mapping[str, Any]) -> None:
        super().__init__()
        self.network, self.extractor = network, dict(extractor)

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values from which, with `classes`, `rebuilt_hugging_face` makes the network again."""
        config = json.loads(self.network.config.to_json_string())
        return {"config": config, "extractor": self.extractor}

    @property
    def hears(self) -> dict[str, Any]:
        """Keyword arguments of its features."""
        return {"extractor": self.extractor}

    def forward(self, features: Tensor) -> Tensor:
        # [b, frames, bands], or [b, samples]
        logits: Tensor = self.network(features[:, 0].mT.squeeze(2)).logits
        return logits


def rebuilt_hugging_face(
    *, classes: int, config: Mapping[str, Any], extractor: Mapping[str, Any]
) -> HuggingFaceClassifier:
    """The network of these `settings`, with random weights."""
    library = transformers_library()
    described = library.AutoConfig.for_model(**{**config, "num_labels": classes})
    network = library.AutoModelForAudioClassification.from_config(described, trust_remote_code=False)
    return HuggingFaceClassifier(network, extractor)


def transformers_library() -> ModuleType:
    """transformers, imported late because it takes seconds and only these teachers need it,
    and made quiet."""
    import_torchaudio()
    library = importlib.import_module("transformers")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library
