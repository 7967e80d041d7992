"""INT8 networks as they are after a round over the disk."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram

from adaptf.compression.complexity import measure_complexity
from adaptf.compression.int8 import (
    CLIPS_AT_ONCE,
    DYNAMIC_BATCH,
    Int8Network,
    int8_convolutions,
    load_int8,
    save_int8,
)
from adaptf.compression.quantize import quantize_int8
from adaptf.models.students.tfsepnet.network import TfSepNet
from adaptf.models.students.tfsepnet.public_checkpoint import from_public

pytestmark = [pytest.mark.arithmetic, pytest.mark.slow]

CONVOLUTIONS = 46
"""The network has 43; its grouped one is served as four."""


@dataclass(frozen=True)
class Quantized:
    network: TfSepNet
    state_before: dict[str, Tensor]
    logmel: Tensor
    logits: Tensor
    program: ExportedProgram
    path: Path


@pytest.fixture(scope="module")
def quantized(
    golden: Callable[[str], dict[str, Tensor]], golden_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Quantized:
    """The public trainer's network, in training mode, quantized with the reference's own clips."""
    reference = golden("tfsepnet64_d17")
    network = TfSepNet(classes=10)
    checkpoint = torch.load(golden_folder / "tfsepnet64_d17.ckpt", weights_only=True)
    network.load_state_dict(from_public(checkpoint["state_dict"]))
    network.train()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    program = quantize_int8(network, [reference["logmel"]]).program()
    path = tmp_path_factory.mktemp("int8") / "model.pt2"
    save_int8(program, path)
    return Quantized(network, state, reference["logmel"], reference["logits"], program, path)


@pytest.fixture(scope="module")
def loaded(quantized: Quantized) -> Int8Network:
    return load_int8(quantized.path)


@pytest.fixture(scope="module")
def reread(quantized: Quantized) -> ExportedProgram:
    return torch.export.load(quantized.path)


def test_all_convolutions_are_int8(quantized: Quantized) -> None:
    assert int8_convolutions(quantized.program) == (CONVOLUTIONS, CONVOLUTIONS)


def test_only_inputs_of_convolutions_are_rounded(quantized: Quantized) -> None:
    named = [(str(node.target), node) for node in quantized.program.graph.nodes]
    rounded = [node for name, node in named if ".quantize_per_tensor" in name]
    assert (
        len(rounded) == CONVOLUTIONS - 3 + 4
    )  # the four of the stem have one input, and their outputs are joined as integers
    readers = {
        str(user.target) for name, node in named if ".dequantize_per_tensor" in name for user in node.users
    }
    of_moved_normalization = {"aten.cat.default", "aten.mean.dim", "aten.sub.Tensor"}
    assert readers == {"aten.conv2d.default"} | of_moved_normalization


def test_logits_stay_near_those_of_the_float_network(quantized: Quantized, loaded: Int8Network) -> None:
    logits = loaded(quantized.logmel)
    assert not logits.requires_grad
    torch.testing.assert_close(logits, quantized.logits, rtol=0, atol=0.05)  # their spread is 0.66
    assert torch.equal(logits.argmax(dim=1), quantized.logits.argmax(dim=1))


def test_the_float_network_is_left_as_it_was(quantized: Quantized) -> None:
    state = quantized.network.state_dict()
    assert all(torch.equal(tensor, quantized.state_before[name]) for name, tensor in state.items())
    assert all(module.training for module in quantized.network.modules())


@pytest.mark.parametrize("batch", [1, 2, 5, CLIPS_AT_ONCE + 1])
def test_a_clip_has_the_same_logits_in_a_batch_of_any_size_up_to_roundings(
    batch: int, quantized: Quantized, loaded: Int8Network
) -> None:
    clips = torch.cat([quantized.logmel[:1].roll(frames, dims=3) for frames in range(batch)])
    one_by_one = torch.cat([loaded(clip[None]) for clip in clips])
    torch.testing.assert_close(loaded(clips), one_by_one, rtol=0, atol=0.01)


def test_the_running_form_computes_what_was_saved(
    quantized: Quantized, loaded: Int8Network, reread: ExportedProgram
) -> None:
    assert torch.equal(loaded(quantized.logmel), reread.module()(quantized.logmel))


def test_several_threads_can_read_files_at_once(quantized: Quantized, loaded: Int8Network) -> None:
    with ThreadPoolExecutor(4) as pool:
        for network in pool.map(load_int8, [quantized.path] * 4):
            assert torch.equal(network(quantized.logmel), loaded(quantized.logmel))


def test_evaluation_mode_can_be_set(quantized: Quantized, loaded: Int8Network) -> None:
    assert loaded.eval()(quantized.logmel).shape == quantized.logits.shape


def test_the_file_holds_int8_weights_and_no_float_ones(reread: ExportedProgram) -> None:
    tensors = [*reread.state_dict.values(), *reread.constants.values()]
    weights = [tensor for tensor in tensors if tensor.ndim == 4]
    assert {weight.dtype for weight in weights} == {torch.int8}
    assert len(weights) == CONVOLUTIONS


def test_weights_and_biases_in_the_file_have_the_bytes_that_the_limit_is_held_to(
    quantized: Quantized, reread: ExportedProgram
) -> None:
    tensors = reread.state_dict.values()
    stored = sum(tensor.nbytes for tensor in tensors if tensor.dtype in (torch.int8, torch.float16))
    assert stored == measure_complexity(quantized.network, bands=512, frames=64).model_bytes


def test_the_file_tells_no_paths_and_no_clips(quantized: Quantized, reread: ExportedProgram) -> None:
    assert str(Path(__file__).parents[2]).encode() not in quantized.path.read_bytes()
    assert reread.example_inputs is None


def test_a_fresh_process_loads_the_same_network_without_the_quantizer(
    quantized: Quantized, loaded: Int8Network, tmp_path: Path
) -> None:
    torch.save(quantized.logmel, tmp_path / "logmel.pt")
    code = (
        "import sys, torch\n"
        "from adaptf.compression.int8 import load_int8\n"
        f"logmel = torch.load({str(tmp_path / 'logmel.pt')!r}, weights_only=True)\n"
        f"torch.save(load_int8({str(quantized.path)!r})(logmel), {str(tmp_path / 'logits.pt')!r})\n"
        "print(sorted({'neural_compressor', 'torchao'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr == ""
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    torch.testing.assert_close(logits, loaded(quantized.logmel), rtol=0, atol=0.01)


@pytest.mark.parametrize("shape", [(2, 1, 256, 64), (2, 1, 512, 65), (512, 64), (0, 1, 512, 64)])
def test_log_mels_of_another_shape_are_refused(shape: tuple[int, ...], loaded: Int8Network) -> None:
    with pytest.raises(ValueError, match=r"should be \(batch >= 1, 1, 512, 64\), got"):
        loaded(torch.zeros(shape))


def test_calibration_needs_clips_of_one_shape() -> None:
    network = TfSepNet(classes=3, width=4, depth=2)
    with pytest.raises(ValueError, match="at least one batch"):
        quantize_int8(network, [])
    with pytest.raises(ValueError, match=r"\(2, 1, 16, 9\) after \(2, 1, 16, 8\)"):
        quantize_int8(network, [torch.zeros(2, 1, 16, 8), torch.zeros(2, 1, 16, 9)])


def test_a_float_convolution_is_counted_and_refused(quantized: Quantized, tmp_path: Path) -> None:
    partly = torch.export.load(quantized.path)
    convolution = partly.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)[7]
    convolution.update_arg(0, convolution.args[0].args[0].args[0])
    assert int8_convolutions(partly) == (CONVOLUTIONS - 1, CONVOLUTIONS)
    save_int8(partly, tmp_path / "partly.pt2")
    with pytest.raises(ValueError, match=r"partly\.pt2 .*45 of its 46"):
        load_int8(tmp_path / "partly.pt2")


def test_a_float_program_is_refused(tmp_path: Path) -> None:
    network = TfSepNet(classes=3, width=4, depth=2).eval()
    example = (torch.zeros(2, 1, 16, 16),)
    program = torch.export.export(network, example, dynamic_shapes=DYNAMIC_BATCH)
    save_int8(program, tmp_path / "float.pt2")
    with pytest.raises(ValueError, match=r"float\.pt2 .* 0 of its"):
        load_int8(tmp_path / "float.pt2")


def test_broken_files_are_named(quantized: Quantized, tmp_path: Path) -> None:
    whole = quantized.path.read_bytes()
    torch.save({"state_dict": {}}, tmp_path / "checkpoint.pt2")
    (tmp_path / "cut.pt2").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt2").write_text("not a network")
    (tmp_path / "empty.pt2").touch()
    (tmp_path / "folder.pt2").mkdir()
    for name in ("checkpoint", "cut", "text", "empty", "folder", "missing"):
        with pytest.raises(ValueError, match=f"{name}\\.pt2"):
            load_int8(tmp_path / f"{name}.pt2")


def test_a_failed_save_leaves_the_old_file_and_nothing_beside_it(
    quantized: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"old")

    def fail(file: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        save_int8(quantized.program, path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert path.read_bytes() == b"old"
