import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptf.audio.fbank import FLOOR, MEAN, STD, Fbank
from adaptf.audio.torchaudio_import import import_torchaudio

pytestmark = pytest.mark.arithmetic

GOLDEN = Path(__file__).parent.parent / "golden" / "beats_tiny.npz"


def noise(batch: int, samples: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.fixture
def recorded() -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in np.load(GOLDEN).items()}


@pytest.fixture
def formulas(log_energies: Callable[..., Any]) -> Callable[[Tensor], tuple[np.ndarray, np.ndarray]]:
    """Kaldi's features (clips, frames, 128) in float64, and how far float32 may lie from them."""

    def calculate(waveform: Tensor) -> tuple[np.ndarray, np.ndarray]:
        samples = waveform.double().numpy() * 2**15
        heard = np.lib.stride_tricks.sliding_window_view(samples, 400, axis=1)[:, ::160]
        frames = heard - heard.mean(axis=2, keepdims=True)
        before = np.concatenate([frames[:, :, :1], frames[:, :, :-1]], axis=2)
        window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
        settings = {
            "n_fft": 512,
            "bands": 128,
            "sample_rate": 16000,
            "low_hz": 20.0,
            "offset": 0.0,
            "floor": FLOOR,
        }
        exact, rounding = log_energies(window * heard, window * (frames - 0.97 * before), **settings)
        return (exact - MEAN) / (2 * STD), rounding / (2 * STD)

    return calculate


# The top bands of the golden clips are next to empty: their values are what an FFT makes of the rounding
# errors of float32, up to 0.046 away from the same computation in float64, and so they depend on the
# processor.


def test_features_equal_the_formulas_as_far_as_float32_goes(
    recorded: dict[str, Tensor], formulas: Any
) -> None:
    """With two libraries' FFTs they lie within 5 roundings of them."""
    for waveform in (recorded["wav16k"], noise(3, 16123)):
        exact, rounding = formulas(waveform)
        assert (np.abs(Fbank()(waveform).numpy() - exact) < 32 * rounding).all()


def test_the_golden_features_equal_the_formulas_as_far_as_their_float32_filters_go(
    recorded: dict[str, Tensor], formulas: Any
) -> None:
    exact, rounding = formulas(recorded["wav16k"])
    error = np.abs(recorded["fbank"].numpy() - exact)
    assert (error < 32 * rounding + 2e-5).all()
    assert (error < 1e-4).mean() > 0.5


def test_features_equal_torchaudios_in_float64() -> None:
    """But for the window, which is rounded to float32."""
    waveform = noise(3, 16123, torch.float64)
    torch.testing.assert_close(Fbank().double()(waveform), kaldi_fbank(waveform), atol=1e-4, rtol=0)


def kaldi_fbank(waveform: Tensor) -> Tensor:
    kaldi = import_torchaudio().compliance.kaldi
    settings = {"num_mel_bins": 128, "sample_frequency": 16000, "frame_length": 25, "frame_shift": 10}
    return (torch.stack([kaldi.fbank(clip[None] * 2**15, **settings) for clip in waveform]) - MEAN) / (
        2 * STD
    )


def test_a_second_has_98_frames_and_a_frame_too_many_samples_changes_nothing() -> None:
    waveform = noise(2, 16000 + 79)
    assert Fbank()(waveform).shape == (2, 98, 128)
    torch.testing.assert_close(Fbank()(waveform), Fbank()(waveform[:, :16000]), atol=1e-3, rtol=0)


def test_a_clip_gets_the_same_features_alone_and_in_a_batch() -> None:
    waveform = noise(4, 8000)
    torch.testing.assert_close(Fbank()(waveform)[2:3], Fbank()(waveform[2:3]), atol=1e-3, rtol=0)


def test_digital_silence_gets_the_floor() -> None:
    floor = (np.log(FLOOR) - MEAN) / (2 * STD)
    torch.testing.assert_close(
        Fbank()(torch.zeros(1, 400)), torch.full((1, 1, 128), floor, dtype=torch.float32)
    )


def test_the_state_dict_stays_empty() -> None:
    assert not Fbank().state_dict()


@pytest.mark.parametrize("shape", [(16000,), (1, 1, 16000), (2, 399)])
def test_a_waveform_of_another_shape_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"at least 400 samples.*got \(" + str(shape[0])):
        Fbank()(torch.zeros(shape))


IMPORT_AND_SHOW = """
from adaptf.audio.torchaudio_import import import_torchaudio
torchaudio = import_torchaudio()
assert torchaudio is import_torchaudio()
print(torchaudio.extension_file)
"""


def fake_torchaudio(folder: Path, extension: str) -> None:
    package = folder / "torchaudio"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from . import half\nfrom . import _extension\nextension_file = getattr(_extension, '__file__', "
        "'stub')\nassert _extension.fail_if_no_align(len) is len and not _extension._load_lib('x')\n"
    )
    (package / "half.py").write_text("")
    (package / "_extension.py").write_text(extension)


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent.parent
    start = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(root)!r}]\n"
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, timeout=120)


def test_torchaudio_with_a_working_extension_is_imported_as_it_is(tmp_path: Path) -> None:
    fake_torchaudio(tmp_path, "_load_lib = lambda lib: False\nfail_if_no_align = lambda f: f\n")
    result = run_python(IMPORT_AND_SHOW, tmp_path)
    assert result.stdout.strip().endswith("_extension.py"), result.stderr


@pytest.mark.parametrize("error", ["OSError", "RuntimeError"])
def test_an_extension_that_does_not_load_is_replaced_by_a_stub(error: str, tmp_path: Path) -> None:
    fake_torchaudio(tmp_path, f"raise {error}('libcudart.so: cannot open')\n")
    result = run_python(IMPORT_AND_SHOW, tmp_path)
    assert result.stdout.strip() == "stub", result.stderr


def test_another_error_of_the_import_is_not_hidden(tmp_path: Path) -> None:
    fake_torchaudio(tmp_path, "raise KeyError('no business of ours')\n")
    result = run_python(IMPORT_AND_SHOW, tmp_path)
    assert result.returncode != 0 and "no business of ours" in result.stderr
