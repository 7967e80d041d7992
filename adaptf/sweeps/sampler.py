"""What the trials of a sweep sample: of each from a seed of its own, whoever runs it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from adaptf.sweeps.places import place_number, places_in
from adaptf.sweeps.study import SearchConfig


def sampler_of(search: SearchConfig) -> BaseSampler:
    """Another worker's running trials count as bad ones for the time being, so that nobody samples beside them."""

    def make(seed: int) -> BaseSampler:
        if search.sampler == "random":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, n_startup_trials=search.startup_trials, constant_liar=True)

    return SampledByPlace(make, search.seed)


class SampledByPlace(BaseSampler):
    """A sampler that begins each trial from a seed of its place in the study.

    So a study that was interrupted goes on as it would have without, and two workers don't sample alike.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self.make, self.seed = make, seed
        self.sampler = make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Optuna calls it as a trial begins."""
        place = sum(place.number < place_number(trial) for place in places_in(study))
        self.sampler = self.make(int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0]))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The fields that are sampled together."""
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Their values."""
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of a single field."""
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)
