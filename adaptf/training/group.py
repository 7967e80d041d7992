"""The processes that train together:
which of them this one is, and that one which trains alone is none of them."""

import importlib
import os
import random
import sys
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_only

_SAID_BY_LAUNCHERS = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"),
    *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "JSM_NAMESPACE_RANK"),
)


def process_place() -> tuple[int, int]:
    """Machine, and process on it, from 0: known before the processes have met."""
    if not any(name in os.environ for name in _SAID_BY_LAUNCHERS):
        return 0, 0
    place: tuple[int, int] = _launchers().place()
    return place


def enter_group(*, several: bool) -> None:
    """Takes this process for one of `several`, or for the only one,
    whatever a scheduler has left in its environment.

    Lightning has read RANK or SLURM_PROCID when it was imported,
    and a process of another number than 0 logs nothing.
    """
    if not several:
        for name in _SAID_BY_LAUNCHERS:
            os.environ.pop(name, None)
    rank_zero_only.rank = int(process_place() != (0, 0))  # type: ignore[attr-defined]


def outlive_the_others() -> None:
    """Lightning kills this process some seconds after another one's end,
    where it may have its runs to end first."""
    if "lightning" in sys.modules:
        _launchers().forget_children()


def seed_everything(seed: int) -> None:
    """Starts the random numbers of Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _launchers() -> Any:
    """Imported late: Lightning takes seconds, and a stage that trains nothing needs none."""
    return importlib.import_module("adaptf.training.launchers")
