"""The compiled kernels do what the plain form does, forward and backward."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import adaptf
from adaptf.models.kernels import fused, library
from adaptf.models.kernels.fused import axis_mean, conv_norm_relu, fits, residual_norm
from adaptf.models.residual_normalization import ResidualNormalization
from adaptf.models.students.cp_mobile import CpMobile
from adaptf.models.students.tfsepnet.network import ConvNormRelu, TfSepNet

pytestmark = [pytest.mark.arithmetic, pytest.mark.slow]  # they are compiled first
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


def plainly(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
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
    "smallest planes": (block_of(3, 6, groups=3, **HALVING), (1, 3, 2, 4)),
    "planes of one column": (block_of(3, 6, groups=3, **HALVING), (2, 3, 4, 2)),
}
AXES = {
    "height": (block_of(3, 3, kernel_size=(3, 1), padding=(1, 0), groups=3), 2),
    "width": (block_of(3, 3, kernel_size=(1, 3), padding=(0, 1), groups=3), 3),
}


class Step(NamedTuple):
    """A step of a network."""

    module: ConvNormRelu
    """What has the parameters."""
    ours: Callable[[Tensor], Tensor]
    plain: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    """Of the input."""


def steps() -> Iterator[tuple[str, Step]]:
    """By name."""
    for name, (block, shape) in BLOCKS.items():
        yield name, Step(block, lambda x, one=block: conv_norm_relu(x, one.conv, one.norm), block, shape)
    for (name, (block, dim)), shape in product(AXES.items(), [(2, 3, 4, 5), (2, 3, 1, 7), (2, 3, 7, 1)]):
        yield (
            f"mean over {name} of {shape[2]}x{shape[3]}",
            Step(
                block,
                lambda x, one=block: axis_mean(x, one.conv, one.norm),
                lambda x, one=block, dim=dim: one(x).mean(dim=dim, keepdim=True),
                shape,
            ),
        )


STEPS = pytest.mark.parametrize("step", [step for _, step in steps()], ids=[name for name, _ in steps()])


def results_of(
    way: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor, gradient: Tensor | None = None
) -> list[Tensor]:
    """Values, gradients and statistics. The statistics are put back."""
    buffers = [buffer.clone() for buffer in module.buffers()]
    y = way(x)
    if gradient is None:
        gradients = torch.autograd.grad(y.sum(), [x, *module.parameters()])
    else:
        gradients = torch.autograd.grad(y, [x, *module.parameters()], gradient.expand_as(y))
    found = [y.detach(), *gradients, *(buffer.clone() for buffer in module.buffers())]
    for buffer, value in zip(module.buffers(), buffers, strict=True):
        buffer.copy_(value)
    return found


@STEPS
def test_a_step_has_the_values_the_gradients_and_the_statistics_of_its_plain_form(
    kernels: None,
    monkeypatch: pytest.MonkeyPatch,
    step: Step,
) -> None:
    x = torch.randn(*step.shape, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        gradient = torch.arange(step.ours(x).numel()).double().view_as(step.ours(x))
    expected = plainly(lambda: results_of(step.plain, step.module, x, gradient), monkeypatch)
    torch.testing.assert_close(results_of(step.ours, step.module, x, gradient), expected)
    assert torch.autograd.gradcheck(step.ours, x)


@STEPS
def test_clips_and_gradients_may_lie_anyhow(
    kernels: None,
    monkeypatch: pytest.MonkeyPatch,
    step: Step,
) -> None:
    x = torch.randn(*step.shape, dtype=torch.float64)
    expected = plainly(lambda: results_of(step.plain, step.module, x.clone().requires_grad_()), monkeypatch)
    half = torch.cat([x, x], dim=1)[:, step.shape[1] :]
    last = x.to(memory_format=torch.channels_last)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    for way in (half, last, turned):  # and the gradient of a sum is one number, expanded
        torch.testing.assert_close(
            results_of(step.ours, step.module, way.detach().requires_grad_()), expected
        )


@STEPS
@pytest.mark.parametrize("poisoned", ["x", "conv.weight", "norm.weight", "norm.bias", "gradient"])
def test_what_is_no_number_stays_none(
    kernels: None,
    monkeypatch: pytest.MonkeyPatch,
    step: Step,
    poisoned: str,
) -> None:
    x = torch.randn(*step.shape, dtype=torch.float64, requires_grad=True)
    gradient = torch.ones((), dtype=torch.float64)
    tensors = dict(step.module.named_parameters()) | {"x": x, "gradient": gradient}
    first = tensors[poisoned].detach().view(-1)[:1]
    before = first.clone()
    first.fill_(torch.nan)
    try:
        expected = plainly(lambda: results_of(step.plain, step.module, x, gradient), monkeypatch)
        torch.testing.assert_close(results_of(step.ours, step.module, x, gradient), expected, equal_nan=True)
    finally:
        first.copy_(before)


@STEPS
def test_gradients_of_gradients_are_refused(
    kernels: None,
    step: Step,
) -> None:
    x = torch.randn(*step.shape, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(step.ours(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("frozen", ["conv", "norm"])
def test_frozen_layers_get_no_gradient_and_the_others_theirs(
    kernels: None, monkeypatch: pytest.MonkeyPatch, frozen: str
) -> None:
    def gradients() -> list[Tensor]:
        block = block_of(3, 6, groups=3, **HALVING)
        block.get_submodule(frozen).requires_grad_(False)
        block(torch.arange(72.0, dtype=torch.float64).view(1, 3, 6, 4)).square().sum().backward()
        return [parameter.grad for parameter in block.parameters() if parameter.grad is not None]

    found = gradients()
    assert len(found) == (2 if frozen == "conv" else 1)
    torch.testing.assert_close(found, plainly(gradients, monkeypatch))


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(
    "block", [block_of(3, 6, groups=3, **HALVING), block_of(1, 6, **HALVING), AXES["height"][0]]
)
def test_other_channels_than_the_convolutions_are_refused_as_pytorch_does(
    kernels: None, block: ConvNormRelu, channels: int
) -> None:
    x = torch.zeros(2, channels, 4, 6, dtype=torch.float64)
    if channels != block.conv.in_channels:
        assert not fits(x, block)
        with pytest.raises(RuntimeError, match="channels"):
            block(x)


@pytest.mark.parametrize("strict", [False, True])
def test_programs_of_a_network_hold_no_kernels(kernels: None, strict: bool) -> None:
    """However it stands: learning, with gradients."""
    block = nn.Sequential(block_of(3, 6, groups=3, **HALVING), ResidualNormalization())
    x = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    program = torch.export.export(
        block, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=strict
    ).module()
    with torch.no_grad():
        torch.testing.assert_close(program(x), block(x))
        assert len(program(torch.cat([x, x]))) == 4


def test_functional_transforms_take_the_plain_form(kernels: None) -> None:
    def sum_of_squares(x: Tensor) -> Tensor:
        assert not fits(x)
        return x.square().sum()

    torch.func.grad(sum_of_squares)(torch.zeros(2, 3, 3, 5))


def test_residual_normalization_has_the_gradient_of_its_formula(kernels: None) -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: residual_norm(x, shortcut=0.1, epsilon=1e-5), x)
    with torch.no_grad():
        expected = ResidualNormalization()(x)
    torch.testing.assert_close(residual_norm(x, shortcut=0.1, epsilon=1e-5), expected)


def test_residual_normalization_of_clips_that_lie_anyhow_and_rows_that_hold_no_numbers(
    kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64).transpose(2, 3)
    x[1, 2, 3, 0] = torch.nan
    x.requires_grad_()
    module = ResidualNormalization()
    expected = plainly(lambda: results_of(module, module, x), monkeypatch)
    assert [int(tensor.isnan().sum()) for tensor in expected] == [3 * 5, 3 * 5]
    torch.testing.assert_close(results_of(module, module, x), expected, equal_nan=True)


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
    def block(norm: nn.Module) -> ConvNormRelu:
        whole = ConvNormRelu(3, 3)
        whole.norm = norm
        return whole

    x = torch.zeros(2, 3, 16, 16)
    assert fits(x) and fits(x, block(nn.BatchNorm2d(3)))
    assert not fits(x, block(nn.BatchNorm2d(3).eval()))
    assert not fits(x, block(nn.SyncBatchNorm(3)))
    assert not fits(x, block(nn.BatchNorm2d(3).double()))
    assert not fits(x.bfloat16())
    assert not fits(x[:0])
    assert not fits(x[0])
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


def test_kernels_take_pytorchs_openmp_by_whatever_name(kernels: None, built: Path, tmp_path: Path) -> None:
    """Another beside it would take all cores, in forked processes too."""
    shared = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
    if not shared.exists():
        pytest.skip("PyTorch has another OpenMP here")
    (tmp_path / "libgomq.so.1").write_bytes(shared.read_bytes().replace(b"libgomp.so.1", b"libgomq.so.1"))
    (tmp_path / "kernels.so").write_bytes(built.read_bytes().replace(b"libgomp.so.1", b"libgomq.so.1"))
    program = """if True:
        import os, sys
        from pathlib import Path
        import torch
        from adaptf.models.kernels import library
        library._built = lambda: [Path(sys.argv[1])]
        torch.set_num_threads(1)
        before, x = len(os.listdir("/proc/self/task")), torch.ones(64, 256)
        moments = torch.empty(2, 64, dtype=torch.float64)
        library.run("plane_moments", x.dtype, x, *moments, *x.shape)
        assert (moments[0] == 1).all()
        assert "libgomq" in Path("/proc/self/maps").read_text()
        assert len(os.listdir("/proc/self/task")) == before
    """
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "OMP_NUM_THREADS": "4"}
    subprocess.run([sys.executable, "-c", program, tmp_path / "kernels.so"], check=True, env=environment)
