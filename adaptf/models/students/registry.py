"""The networks that can be students: each is a file in this folder, and a line in `STUDENTS`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from adaptf.errors import UserError
from adaptf.models.students.tfsepnet.network import TfSepNet
from adaptf.models.students.tfsepnet.served import for_int8

TFSEPNET = "tfsepnet"


def as_it_is(network: nn.Module, log_mels: Sequence[Tensor]) -> nn.Module:
    """The network itself."""
    return network


@dataclass(frozen=True)
class Student:
    """A network that `-P model.kind=<its name>` trains, distills, fine-tunes, quantizes and serves.

    It takes keyword arguments: `classes`, and whatever else decides its parameters, plain values with defaults. Of the
    sections' `model.width`, `model.depth` and `model.dropout` it gets those that it takes, and from `model.settings` the
    others. `forward` makes logits (batch, classes) of log-mels (batch, 1, bands, frames), of any size of batch. The last
    layer is called `classifier`: a start from other classes leaves it out.

    Quantized is what `torch.export` makes of it. Every convolution has to become INT8: plain `nn.Conv2d`s (and
    `nn.BatchNorm2d` right behind, which is folded in) do, whatever their stride, padding and groups; a last layer is best a
    1x1 one before the mean. All else stays as it is: a product, sum or mean runs in float or on INT8 steps as Neural
    Compressor thinks fit. A module with a true `stays_float` is left out of that, with all that it holds; it should hold
    no convolution.
    """

    network: Callable[..., nn.Module]
    """Its class."""
    for_int8: Callable[[Any, Sequence[Tensor]], nn.Module] = as_it_is
    """From a trained network and batches of log-mels an equal one on the CPU, a copy, that loses less or runs faster."""


STUDENTS = {
    TFSEPNET: Student(TfSepNet, for_int8),
}


def find_student(kind: str) -> Student:
    """Raises UserError where there is none of this name."""
    if kind not in STUDENTS:
        raise UserError(f"there is no student '{kind}', there are {', '.join(STUDENTS)}")
    return STUDENTS[kind]


def serving_form(network: nn.Module, log_mels: Sequence[Tensor]) -> nn.Module:
    """What is quantized: an equal network that loses less and runs faster, where one is known."""
    student = next((one for one in STUDENTS.values() if one.network is type(network)), None)
    return student.for_int8(network, log_mels) if student else network
