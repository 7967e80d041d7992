"""Parts of a batch, each on a processor core of its own."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from adaptf.audio.cores import in_parts


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_parts_are_answered_side_by_side_and_come_back_in_order(two_cores: None) -> None:
    met = threading.Barrier(2)

    def doubled(part: Tensor) -> Tensor:
        met.wait(timeout=60)
        assert torch.get_num_threads() == 1
        return 2 * part

    rows = torch.arange(8.0)
    with torch.no_grad():
        assert torch.equal(in_parts(doubled, rows, 2), 2 * rows)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_threads_ask_for_no_gradients_where_the_caller_asks_for_none(two_cores: None, mode: type) -> None:
    weight = torch.ones(1, requires_grad=True)
    with mode():
        answer = in_parts(lambda part: part * weight, torch.ones(6), 2)
        assert not answer.requires_grad
        assert answer.is_inference() == torch.is_inference_mode_enabled()


def test_threads_compute_in_half_precision_where_the_caller_does(two_cores: None) -> None:
    rows = torch.ones(6, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert in_parts(lambda part: part @ part.T, rows, 2).dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert in_parts(lambda part: part @ part.T, rows, 2).dtype == torch.float32


def test_gradients_come_through(two_cores: None) -> None:
    rows = torch.ones(6, requires_grad=True)
    in_parts(torch.square, rows, 2).sum().backward()
    assert rows.grad is not None and torch.equal(rows.grad, torch.full((6,), 2.0))


def test_a_part_may_be_divided_again(two_cores: None) -> None:
    with torch.no_grad():
        assert torch.equal(
            in_parts(lambda part: in_parts(torch.neg, part, 1), torch.ones(6), 2), -torch.ones(6)
        )
