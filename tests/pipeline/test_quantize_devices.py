"""Devices' models are quantized side by side where there are cores for it."""

import os
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from fixtures.quantized import FOUND
from torch import nn

from adaptf.compression.fresh_process import FreshProcess
from adaptf.data.shared_objects import SharedObjects
from adaptf.errors import UserError
from adaptf.pipeline.quantize_device import Quantized
from adaptf.pipeline.quantize_devices import quantize_devices

MODELS = {device: nn.Identity() for device in ("a", "b", "s1", "unknown")}


@pytest.fixture
def threads() -> Callable[[int], None]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def found_here(device: str, model: nn.Module, fresh: FreshProcess, shared: SharedObjects) -> Quantized:
    """Tells the process, its threads, and how many devices it has had; the first takes longest."""
    time.sleep(0.5 if device == "a" else 0)
    turns = shared.once("turns", list)
    turns.append(device)
    return replace(
        FOUND, device=device, judged_on=f"{os.getpid()} {torch.get_num_threads()}", trials=len(turns)
    )


def refused(device: str, model: nn.Module, fresh: FreshProcess, shared: SharedObjects) -> Quantized:
    if device == "a":
        raise UserError("a: calibration should hold clips")
    time.sleep(60)
    raise AssertionError("nobody waits for it")


def test_each_is_made_on_one_core_of_its_own_and_they_come_in_order(threads) -> None:
    threads(2)
    found = list(quantize_devices(MODELS, found_here, SharedObjects()))
    assert [one.device for one in found] == list(MODELS)
    assert {one.judged_on.split()[1] for one in found} == {"1"}
    processes = [one.judged_on.split()[0] for one in found]
    assert len(set(processes)) == 2
    assert str(os.getpid()) not in processes
    assert found[2].trials + found[3].trials > 2, "a process shares nothing between its devices"


def test_with_one_thread_all_are_made_here_and_share_what_the_stage_does(threads) -> None:
    threads(1)
    shared = SharedObjects()
    found = list(quantize_devices(MODELS, found_here, shared))
    assert {one.judged_on for one in found} == {f"{os.getpid()} 1"}
    assert shared.once("turns", list) == list(MODELS)


def test_an_error_ends_the_others_at_once(threads) -> None:
    threads(2)
    begin = time.monotonic()
    with pytest.raises(UserError, match="a: calibration"):
        list(quantize_devices(MODELS, refused, SharedObjects()))
    assert time.monotonic() - begin < 30
