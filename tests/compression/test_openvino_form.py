"""Both forms of an INT8 network: the .pt2 file is the reference, the OpenVINO form says the same."""

import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adaptf.audio.logmel import LogMel
from adaptf.compression import runtime
from adaptf.compression.fresh_process import fresh_process
from adaptf.compression.int8 import int8_convolutions
from adaptf.compression.quantize import Int8Graph, quantize_int8, save_forms
from adaptf.compression.runtime import (
    OPENVINO,
    PT2,
    ExportedNetwork,
    Network,
    OnnxNetwork,
    OpenVinoNetwork,
    load_form,
    load_network,
)
from adaptf.errors import UserError
from adaptf.models.students.tfsepnet.network import TfSepNet

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
pytestmark = [
    pytest.mark.arithmetic,
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine().lower() not in runtime.X86, reason="the OpenVINO form is for x86"),
]

SCENES = 10


def bands_of_noise(count: int, seed: int) -> Tensor:
    """Log-mels (count, 1, 64, 64) of two bands of noise among other noise."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfft(torch.randn(count, 32000, generator=generator))
    position, (centre, other) = (
        torch.linspace(0, 1, spectrum.shape[1]),
        0.6 * torch.rand(2, count, 1, generator=generator),
    )
    shape = (
        torch.exp(-(((position - centre) / 0.04) ** 2))
        + 0.5 * torch.exp(-(((position - other) / 0.05) ** 2))
        + 0.05
    )
    waveforms = torch.fft.irfft(spectrum * shape)
    return LogMel(bands=64)(0.5 * waveforms / waveforms.abs().amax(dim=1, keepdim=True))


@torch.no_grad()
def settle(network: TfSepNet, clips: Tensor) -> None:
    """Normalizations that have seen the clips, blocks that add a little to their input,
    and logits spread over the scenes.

    So ranges are as after a training, and the weights, unlike those of a training,
    the same on every processor.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.weight.fill_(0.1 if "pointwise" in name else 1.0)
    network.train()(clips)
    deviation, mean = torch.std_mean(network.eval()(clips), dim=0)
    network.classifier.weight.div_(deviation[:, None, None, None])
    network.classifier.bias.sub_(mean).div_(deviation)


@pytest.fixture(scope="module")
def heard() -> Tensor:
    """Log-mels that the network was not settled on."""
    return bands_of_noise(96, seed=1)


@pytest.fixture(scope="module")
def network_and_clips() -> tuple[TfSepNet, Tensor]:
    """A small network, and the log-mels that it was settled on."""
    torch.manual_seed(0)
    clips, network = bands_of_noise(64, seed=0), TfSepNet(classes=SCENES, width=16, depth=8, dropout=0.0)
    settle(network, clips)
    return network, clips


@pytest.fixture(scope="module")
def quantized(network_and_clips: tuple[TfSepNet, Tensor]) -> Int8Graph:
    network, clips = network_and_clips
    return quantize_int8(network, clips.split(32))


@pytest.fixture(scope="module")
def path(quantized: Int8Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forms") / "s1.pt2"
    with fresh_process() as fresh:
        save_forms(quantized, path, fresh.convert)
    return path


def test_both_forms_have_nearly_the_same_logits(
    path: Path, heard: Tensor, network_and_clips: tuple[TfSepNet, Tensor]
) -> None:
    """A sum that lies between two steps may be rounded to either:
    that is little beside what all the rounding costs."""
    network, _ = network_and_clips
    reference, fast = load_form(path, PT2)(heard), load_form(path, OPENVINO)(heard)
    with torch.no_grad():
        cost = rms(reference - network(heard))
    assert rms(reference - fast) < cost / 4
    assert (reference - fast).abs().max() < reference.std() / 4


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def test_every_convolution_of_the_openvino_form_runs_as_int8(path: Path, quantized: Int8Graph) -> None:
    compiled = runtime.core().compile_model(path.with_suffix(".xml"), "CPU", runtime.OPENVINO_SETTINGS)
    notes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    precisions = [
        note["runtimePrecision"].astype(str)
        for note in notes
        if note["layerType"].astype(str) == "Convolution"
    ]
    assert len(precisions) == int8_convolutions(quantized.program())[1]
    assert set(precisions) <= {"u8", "i8"}


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_a_batch_of_any_size_is_its_clips_one_by_one(batch: int, path: Path, heard: Tensor) -> None:
    clips, network = heard[:batch], load_network(path)
    assert network.form == OPENVINO and network.why == ""
    assert torch.equal(network(clips), torch.cat([network(clip[None]) for clip in clips]))


def test_many_threads_get_the_logits_of_one(path: Path, heard: Tensor) -> None:
    network, clips = load_network(path), heard[:40]
    expected, found = network(clips), dict[int, Tensor]()
    threads = [
        threading.Thread(target=lambda place=place: found.update({place: network(clips)}))
        for place in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[place], expected) for place in range(8))


SIGNAL_AFTER_A_NETWORK = """
import os, signal, sys, threading
from pathlib import Path
from adaptf.compression.runtime import load_network

networks = [load_network(Path(sys.argv[1]))]
assert networks[0].form == "OpenVINO"
thread = threading.Thread(target=networks.clear)
thread.start()
thread.join()
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_is_heard_after_another_thread_gave_the_last_network_up(path: Path) -> None:
    program = [sys.executable, "-c", SIGNAL_AFTER_A_NETWORK, str(path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


@pytest.mark.parametrize("shape", [(2, 1, 32, 64), (2, 1, 64, 65), (64, 64), (0, 1, 64, 64)])
def test_log_mels_of_another_shape_are_refused(shape: tuple[int, ...], path: Path) -> None:
    with pytest.raises(ValueError, match=r"should be \(batch >= 1, 1, 64, 64\), got"):
        load_network(path)(torch.zeros(shape))


def test_where_the_form_cannot_run_onnx_runtime_serves_else_the_file_and_it_says_why(
    path: Path, tmp_path: Path, quantized: Int8Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "s1.pt2"
    alone.write_bytes(path.read_bytes())
    assert_instead(OnnxNetwork, alone, "there is no s1.xml and no s1.bin beside s1.pt2")
    alone.with_suffix(".xml").write_text("<net>")
    alone.with_suffix(".bin").touch()
    assert_instead(OnnxNetwork, alone, "OpenVINO does not take s1.pt2")
    with monkeypatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "aarch64")
        assert_instead(OnnxNetwork, path, "the processor is not x86 but aarch64")
    with monkeypatch.context() as patch:
        patch.setattr(runtime.importlib.util, "find_spec", lambda name: None)
        neither = "OpenVINO is not installed; ONNX Runtime is not installed (onnx, onnxruntime)"
        assert_instead(ExportedNetwork, path, neither)
        with pytest.raises(
            UserError, match=r"s1\.pt2 has no OpenVINO form to run: OpenVINO is not installed"
        ):
            load_form(path, OPENVINO)


def assert_instead(kind: type[Network], path: Path, why: str) -> None:
    network = load_network(path)
    assert isinstance(network, kind)
    assert network.why.startswith(why)
    assert network(torch.zeros(2, 1, 64, 64)).shape == (2, SCENES)


def test_a_form_that_was_removed_is_gone(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a.pt2"
    for suffix in (".pt2", ".xml", ".bin"):
        copy.with_suffix(suffix).write_bytes(path.with_suffix(suffix).read_bytes())
    assert isinstance(load_network(copy), OpenVinoNetwork)
    runtime.remove_openvino(copy)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt2"]
