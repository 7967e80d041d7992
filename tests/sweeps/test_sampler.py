"""What the trials of a sweep sample."""

import optuna

from adaptf.sweeps.sampler import SampledByPlace


def test_workers_that_sample_at_the_same_time_sample_unlike_values() -> None:
    def drawn(study: optuna.Study) -> list[float]:
        study.sampler = SampledByPlace(lambda seed: optuna.samplers.RandomSampler(seed=seed), seed=3)
        return [study.ask().suggest_float("x", 0, 1) for _ in range(5)]

    first = drawn(optuna.create_study())
    assert len(set(first)) == 5
    assert drawn(optuna.create_study()) == first
