"""The places of all random generators, in a checkpoint:
a resumed training draws what an uninterrupted one would have."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def generator_states(generators: Mapping[str, np.random.Generator]) -> dict[str, Any]:
    """Of these generators and of the global ones, in tensors,
    strings and numbers that every reader of checkpoints takes.

    Dropout draws from PyTorch's generators, BEATs drops layers by NumPy's.
    """
    return {
        "own": {name: _as_text(generator.bit_generator.state) for name, generator in generators.items()},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": _as_tensors(np.random.get_state(legacy=False)),
    }


def restore_generators(
    generators: Mapping[str, np.random.Generator], states: Mapping[str, Any], *, process: int = 0
) -> None:
    """Process 0 of a distributed training wrote the states;
    the others go on far away from its draws, not where they were."""
    for name, state in states["own"].items():
        if name in generators:
            bits = np.random.PCG64()
            bits.state = _as_numbers(state)
            generators[name].bit_generator.state = bits.jumped(process).state if process else bits.state
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    np.random.set_state(_as_arrays(states["numpy"]))


def _as_text(state: Mapping[str, Any]) -> dict[str, Any]:
    """A 128-bit integer is nothing that every reader of checkpoints takes."""
    return {**state, "state": {name: str(value) for name, value in state["state"].items()}}


def _as_numbers(state: Mapping[str, Any]) -> Any:
    return {**state, "state": {name: int(value) for name, value in state["state"].items()}}


def _as_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    key = torch.from_numpy(state["state"]["key"].astype(np.int64))
    return {**state, "state": {"key": key, "pos": int(state["state"]["pos"])}}


def _as_arrays(state: Mapping[str, Any]) -> dict[str, Any]:
    return {**state, "state": {**state["state"], "key": state["state"]["key"].numpy().astype(np.uint32)}}
