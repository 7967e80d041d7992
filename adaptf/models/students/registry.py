"""The networks that can be students: each is a file in this folder, and a line in `STUDENTS`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from adaptf.errors import UserError
from adaptf.models.students.cp_mobile import CpMobile
from adaptf.models.students.tfsepnet.network import TfSepNet
from adaptf.models.students.tfsepnet.served import for_int8

TFSEPNET = "tfsepnet"


def _as_it_is(network: nn.Module, log_mels: Sequence[Tensor]) -> nn.Module:
    """The network itself."""
    return network


@dataclass(frozen=True)
class Student:
    """A network that `-P model.kind=<its name>` trains, distills, fine-tunes, quantizes and serves.

    It is called with keyword arguments: `classes`, and whatever else decides its parameters, plain values
    with defaults. Of the options `model.width`, `model.depth` and `model.dropout` it gets those that are
    said, and from `model.settings` the others. `forward` makes logits (batch, classes) of log-mels (batch, 1,
    bands, frames), of any size of batch. The last layer is called `classifier`: a start from other classes
    leaves it out.

    What `torch.export` makes of it is quantized. All its parameters stand in plain `nn.Conv2d`s, whatever
    their stride, padding and groups, and in an `nn.BatchNorm2d` right behind one: bytes are counted for these
    alone, and every convolution has to become INT8. So the last layer is a 1x1 convolution before the mean.
    All else may be what it likes and runs in float, or on INT8 steps where Neural Compressor thinks fit; a
    module with a true `stays_float`, which holds no convolution, is left out of that.
    """

    network: Callable[..., nn.Module]
    """Its class."""
    for_int8: Callable[[Any, Sequence[Tensor]], nn.Module] = _as_it_is
    """From a trained network and batches of log-mels an equal one on the CPU, a copy, that loses less or runs
    faster."""


STUDENTS = {
    TFSEPNET: Student(TfSepNet, for_int8),
    "cp_mobile": Student(CpMobile),
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
