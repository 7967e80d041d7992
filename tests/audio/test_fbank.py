import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptf.audio.fbank import FLOOR, MEAN, STD, Fbank
from adaptf.audio.torchaudio_import import import_torchaudio

GOLDEN = Path(__file__).parent.parent / "golden" / "beats_tiny.npz"


def kaldi_fbank(waveform: Tensor) -> Tensor:
    kaldi = import_torchaudio().compliance.kaldi
    settings = {"num_mel_bins": 128, "sample_frequency": 16000, "frame_length": 25, "frame_shift": 10}
    return (torch.stack([kaldi.fbank(clip[None] * 2**15, **settings) for clip in waveform]) - MEAN) / (2 * STD)


def noise(batch: int, samples: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.fixture
def recorded() -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in np.load(GOLDEN).items()}


# The top bands of the golden clips are next to empty: their values are what a float32 FFT makes of its rounding errors, up to
# 0.046 away from the same computation in float64, and so they depend on the processor. torchaudio's own function gives the
# golden values bit for bit with the Math Kernel Library's AVX-512 FFT for Intel processors, and comes only to within 0.017 of
# them with the one that it runs on an AMD EPYC. `Fbank` lies within 5e-6 of torchaudio's on both.


def test_features_equal_torchaudios_of_the_same_machine_even_in_empty_bands(recorded: dict[str, Tensor]) -> None:
    torch.testing.assert_close(Fbank()(recorded["wav16k"]), kaldi_fbank(recorded["wav16k"]), atol=1e-5, rtol=0)


def test_features_equal_the_golden_ones_wherever_torchaudios_do(recorded: dict[str, Tensor]) -> None:
    error = (Fbank()(recorded["wav16k"]) - recorded["fbank"]).abs()
    torchaudios_error = (kaldi_fbank(recorded["wav16k"]) - recorded["fbank"]).abs()
    assert (error <= 1e-4 + torchaudios_error).all()


def test_features_equal_the_golden_ones_where_float32_resolves_them(recorded: dict[str, Tensor]) -> None:
    error = (Fbank()(recorded["wav16k"]) - recorded["fbank"]).abs()
    energy = (recorded["fbank"] * 2 * STD + MEAN).exp()
    resolved = energy > 1e-7 * energy.amax(dim=2, keepdim=True)
    assert resolved.double().mean() > 0.5
    assert error[resolved].max() < 1e-4
    assert error.max() < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_equal_torchaudios(dtype: torch.dtype) -> None:
    waveform = noise(3, 16123, dtype)
    torch.testing.assert_close(Fbank().to(dtype)(waveform), kaldi_fbank(waveform), atol=1e-4, rtol=0)


def test_a_second_has_98_frames_and_a_frame_too_many_samples_changes_nothing() -> None:
    waveform = noise(2, 16000 + 79)
    assert Fbank()(waveform).shape == (2, 98, 128)
    torch.testing.assert_close(Fbank()(waveform), Fbank()(waveform[:, :16000]))


def test_a_clip_gets_the_same_features_alone_and_in_a_batch() -> None:
    waveform = noise(4, 8000)
    torch.testing.assert_close(Fbank()(waveform)[2:3], Fbank()(waveform[2:3]), atol=1e-4, rtol=0)


def test_digital_silence_gets_the_floor() -> None:
    floor = (np.log(FLOOR) - MEAN) / (2 * STD)
    torch.testing.assert_close(Fbank()(torch.zeros(1, 400)), torch.full((1, 1, 128), floor, dtype=torch.float32))


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
        "from . import half\nfrom . import _extension\nextension_file = getattr(_extension, '__file__', 'stub')\n"
        "assert _extension.fail_if_no_align(len) is len and not _extension._load_lib('x')\n"
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
