"""The compiled kernels do what the plain form does, forward and backward."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import adaptf
from adaptf.models.kernels import fused, library
from adaptf.models.kernels.fused import axis_mean, conv_norm_relu, fits, residual_norm
from adaptf.models.residual_normalization import ResidualNormalization
from adaptf.models.students.cp_mobile import CpMobile
from adaptf.models.students.tfsepnet.network import ConvNormRelu, TfSepNet

pytestmark = pytest.mark.arithmetic
SOURCE = Path(library.__file__).with_name("planes.cpp")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels as installing builds them, from the source as it stands."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ here")
    top = Path(adaptf.__file__).parents[1]
    (module,) = tomllib.loads((top / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    path = tmp_path_factory.mktemp("kernels") / "planes.so"
    options = [*module["extra-compile-args"], *module["extra-link-args"], "-shared", "-fPIC"]
    subprocess.run(["g++", str(SOURCE), *options, "-o", str(path)], check=True)
    return path


@pytest.fixture
def kernels(built: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """They are used on planes of any size."""
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this processor, or the environment, does not have what they take")
    monkeypatch.setattr(library, "_built", lambda: [built])
    monkeypatch.setattr(fused, "_SMALLEST_PLANE", 1)
    library.library.cache_clear()
    library._kernel.cache_clear()
    yield
    library.library.cache_clear()
    library._kernel.cache_clear()


def plainly(run: Callable[[], Tensor], monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Without kernels."""
    with monkeypatch.context() as patch:
        patch.setattr(fused, "library", lambda: None)
        return run()


def block_of(*shape: int, **options: object) -> ConvNormRelu:
    torch.manual_seed(0)
    block = ConvNormRelu(*shape, **options).double().train()  # type: ignore[arg-type]
    nn.init.uniform_(block.norm.weight, 0.5, 2)
    nn.init.normal_(block.norm.bias)
    return block


HALVING = {"kernel_size": 3, "stride": 2, "padding": 1}
BLOCKS = {
    "1x1": (block_of(3, 4), (2, 3, 3, 5)),
    "halving": (block_of(3, 6, groups=3, **HALVING), (2, 3, 6, 4)),
    "of one input": (block_of(1, 3, **HALVING), (2, 1, 4, 6)),
    "odd planes": (block_of(2, 4, groups=2, **HALVING), (2, 2, 5, 4)),
}
AXES = {
    "height": (block_of(3, 3, kernel_size=(3, 1), padding=(1, 0), groups=3), 2),
    "width": (block_of(3, 3, kernel_size=(1, 3), padding=(0, 1), groups=3), 3),
}


def steps() -> Iterator[tuple[str, nn.Module, Callable[..., Tensor], Callable[..., Tensor], tuple[int, ...]]]:
    """Name, what has the parameters, by kernels, plain form, shape of the input."""
    for name, (block, shape) in BLOCKS.items():
        yield name, block, lambda x, one=block: conv_norm_relu(x, one.conv, one.norm), block, shape
    for name, (block, dim) in AXES.items():
        yield (
            f"mean over {name}",
            block,
            lambda x, one=block: axis_mean(x, one.conv, one.norm),
            lambda x, one=block, dim=dim: one(x).mean(dim=dim, keepdim=True),
            (2, 3, 4, 5),
        )


@pytest.mark.parametrize(
    ("module", "ours", "plain", "shape"), [rest for _, *rest in steps()], ids=[name for name, *_ in steps()]
)
def test_a_step_has_the_values_the_gradients_and_the_statistics_of_its_plain_form(
    kernels: None,
    monkeypatch: pytest.MonkeyPatch,
    module: ConvNormRelu,
    ours: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    shape: tuple[int, ...],
) -> None:
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    buffers = [buffer.clone() for buffer in module.buffers()]
    results = []
    for way in (lambda: plainly(lambda: plain(x), monkeypatch), lambda: ours(x)):
        for buffer, value in zip(module.buffers(), buffers, strict=True):
            buffer.copy_(value)
        y = way()
        gradients = torch.autograd.grad(
            (y * torch.arange(y.numel()).view_as(y)).sum(), [x, *module.parameters()]
        )
        results.append([y, *gradients, *(buffer.clone() for buffer in module.buffers())])
    torch.testing.assert_close(*results)
    assert torch.autograd.gradcheck(ours, x)


def test_residual_normalization_has_the_gradient_of_its_formula(kernels: None) -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: residual_norm(x, shortcut=0.1, epsilon=1e-5), x)
    with torch.no_grad():
        expected = ResidualNormalization()(x)
    torch.testing.assert_close(residual_norm(x, shortcut=0.1, epsilon=1e-5), expected)


@pytest.mark.parametrize("kind", [TfSepNet, CpMobile])
def test_a_network_learns_the_same_with_and_without_kernels(
    kernels: None, monkeypatch: pytest.MonkeyPatch, kind: Callable[..., nn.Module]
) -> None:
    def gradients() -> Tensor:
        torch.manual_seed(0)
        network = kind(classes=4).double().train()
        logits = network(torch.randn(3, 1, 64, 32, dtype=torch.float64))
        nn.functional.cross_entropy(logits, torch.arange(3)).backward()
        state = [tensor.flatten().double() for tensor in network.state_dict().values()]
        return torch.cat(
            [logits.flatten(), *state, *(p.grad.flatten() for p in network.parameters())]
        ).detach()

    torch.testing.assert_close(gradients(), plainly(gradients, monkeypatch), rtol=1e-6, atol=1e-9)


def test_results_do_not_depend_on_the_number_of_threads(kernels: None) -> None:
    x = torch.randn(4, 3, 16, 8, requires_grad=True)
    block = block_of(3, 6, groups=3, **HALVING).float()
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            y = conv_norm_relu(x, block.conv, block.norm)
            found.append(torch.cat([y.flatten(), torch.autograd.grad(y.square().sum(), x)[0].flatten()]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_kernels_are_for_training_in_full_precision_on_large_planes(
    kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, norm = torch.zeros(2, 3, 16, 16), nn.BatchNorm2d(3)
    assert fits(x, norm)
    assert not fits(x, nn.BatchNorm2d(3).eval())
    assert not fits(x, nn.SyncBatchNorm(3))
    assert not fits(x.bfloat16())
    assert not fits(x[:0])
    with torch.no_grad():
        assert not fits(x)
    with torch.autocast("cpu"):
        assert not fits(x)
    monkeypatch.setattr(fused, "_SMALLEST_PLANE", 257)
    assert not fits(x)


@pytest.mark.parametrize("content", [b"", b"no library"], ids=["empty", "broken"])
def test_a_library_that_cannot_be_loaded_leaves_the_plain_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "broken.so").write_bytes(content)
    monkeypatch.setattr(library, "_built", lambda: [tmp_path / "broken.so"])
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    library.library.cache_clear()
    try:
        assert library.library() is None
    finally:
        library.library.cache_clear()
    assert "install it again" in caplog.text


def test_an_older_processor_takes_the_plain_form() -> None:
    asks = "from adaptf.models.kernels.library import library; assert library() is None"
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    if library.platform.machine() in ("x86_64", "AMD64"):
        subprocess.run([sys.executable, "-c", asks], check=True, env=environment)
