"""The front end in ONNX computes the log-mel that networks were trained on."""

import math
from typing import Any

import pytest
import torch

from adaptf.audio.logmel import LogMel
from adaptf.compression.onnx_front_end import onnx_front_end
from adaptf.compression.runtime import onnx_session

pytestmark = pytest.mark.arithmetic

TRANSFORMS = {
    "as in the report": ({}, 32_000),
    "few bands": ({"bands": 64}, 32_000),
    "a window as long as the transform": ({"bands": 40, "n_fft": 2048, "window_samples": 2048}, 16_000),
    "an odd window, and bins in 25 x 40": (
        {"bands": 40, "n_fft": 1000, "window_samples": 999, "hop_samples": 317},
        16_001,
    ),
    "a transform of a prime length": (
        {"bands": 20, "n_fft": 257, "window_samples": 200, "hop_samples": 160},
        4_000,
    ),
}


@pytest.mark.parametrize("settings, samples", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_loud_quiet_and_pure_sounds_get_the_same_log_mel(settings: dict[str, Any], samples: int):
    log_mel = LogMel(**settings)
    run = onnx_session(onnx_front_end(log_mel, samples).SerializeToString())
    noise = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    tone = torch.sin(2 * math.pi * 440 * torch.arange(samples) / 32_000)
    waveforms = torch.stack([0.001 * noise[0], noise[1], 0.5 * tone, torch.zeros(samples)])
    difference = run(waveforms) - log_mel(waveforms)
    assert difference.abs().max() < 1e-3  # of values that spread by about 1; quiet bands beside a tone
    assert difference.square().mean().sqrt() < 2e-5
