"""The processes that train together:
which of them this one is, and that one which trains alone is none of them."""

import os
import threading

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning_utilities.core.rank_zero import rank_zero_only

_LAUNCHERS = (TorchElasticEnvironment, SLURMEnvironment)
"""In the order in which Lightning's trainer looks for them."""
_SAID_BY_LAUNCHERS = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"),
    *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "JSM_NAMESPACE_RANK"),
)


def process_place() -> tuple[int, int]:
    """Machine, and process on it, from 0: known before the processes have met."""
    environment = next((one for one in _LAUNCHERS if one.detect()), LightningEnvironment)()
    return environment.node_rank(), environment.local_rank()


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
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []  # its next look finds nothing to wait for
