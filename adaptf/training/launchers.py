"""What Lightning's launchers of several processes say and do."""

import threading

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

_LAUNCHERS = (TorchElasticEnvironment, SLURMEnvironment)
"""In the order in which Lightning's trainer looks for them."""


def place() -> tuple[int, int]:
    """Machine, and process on it, from 0."""
    environment = next((one for one in _LAUNCHERS if one.detect()), LightningEnvironment)()
    return environment.node_rank(), environment.local_rank()


def forget_children() -> None:
    """This process is not ended when one that it launched ends."""
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []  # its next look finds nothing to wait for
