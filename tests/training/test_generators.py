import io
from typing import Any

import numpy as np
import torch

from adaptf.training.generators import generator_states, restore_generators


def draws(generators: dict[str, np.random.Generator]) -> list[float]:
    """One number of every source of chance."""
    return [float(generators["own"].random()), float(torch.rand(())), float(np.random.random())]


def through_a_file(states: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def test_every_generator_goes_on_where_the_checkpoint_was_written() -> None:
    generators = {"own": np.random.default_rng(0)}
    draws(generators)
    states = through_a_file(generator_states(generators))
    expected = [draws(generators) for _ in range(3)]
    restore_generators(generators, states)
    assert [draws(generators) for _ in range(3)] == expected


def test_another_process_draws_other_augmentations_after_a_restart() -> None:
    generators = [{"own": np.random.default_rng(0)} for _ in range(3)]
    states = through_a_file(generator_states(generators[0]))
    for process, own in enumerate(generators):
        restore_generators(own, states, process=process)
    assert len({float(own["own"].random()) for own in generators}) == 3
