"""How a sweep searches: its settings, and the sampler and pruner that they mean."""

import re
from dataclasses import dataclass
from typing import Literal

from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from adaptf.errors import UserError
from adaptf.pipeline.config import file_or_name

BESIDE = "default"
Score = Literal["accuracy", "worst_device"]
Pruning = Literal["halving", "none"]
Sampling = Literal["tpe", "random"]


@dataclass(frozen=True)
class SearchConfig:
    """How the settings are searched."""

    study: str = "default"
    """Name; `default`: that of the stage. Workers with the same study and storage share its trials, and one
    that was interrupted is resumed by its name."""
    storage: str = file_or_name(BESIDE)
    """default: the SQLite file sweeps.db beside the MLflow store, for the processes of one machine. Else the
    URL of a database, for many machines, as in postgresql+psycopg2://user@host/database; its password belongs
    in the variable PGPASSWORD, since a run's settings are shown to all."""
    trials: int = 30
    """Trials that the study shall have in the end, those of all workers together, complete ones and those
    ended early. Those that other workers have begun by then are more."""
    space: str = "default"
    """YAML file of the fields and their ranges; `default`: spaces/<stage>.yaml of the package."""
    objectives: tuple[Score, ...] = ("accuracy",)
    """accuracy: macro average on the validation clips. accuracy,worst_device: also that of the device that is
    worst; gives the front of settings of which none is better in both. Nothing is ended early then."""
    default_first: bool = True
    """The first trial has the settings as they are, where they lie within the space."""
    sampler: Sampling = "tpe"
    """tpe: tree-structured Parzen estimator (Bergstra et al., 2011). random."""
    startup_trials: int = 10
    """Random trials before tpe learns from them."""
    seed: int = 0
    """Of the sampler of the worker that begins the study: alone and without interruption it gives the same
    trials again."""
    pruner: Pruning = "halving"
    """halving: ends trials that are not among the best at some epochs (successive halving, Li et al., 2020).
    none."""
    min_epochs: int = 0
    """Epochs after which halving first looks at a trial; 0: a fifth of the training's."""
    reduction_factor: int = 3
    """One in so many trials goes on at each look, and the next look comes after so many times the epochs."""
    heartbeat_seconds: int = 20
    """How often a worker tells the database that it is alive; without news for three times as long its trial
    is run again."""


def check_search(config: SearchConfig) -> None:
    """Raises UserError for values that nothing can be searched with."""
    if not re.fullmatch(r"[\w.-]+", config.study):
        raise UserError(f"sweep.study should be a name of letters, digits, '.', '-' and '_', got '{config.study}'")
    if config.objectives not in (("accuracy",), ("accuracy", "worst_device")):
        raise UserError(f"sweep.objectives is {','.join(config.objectives)}: give accuracy, or accuracy,worst_device")
    lowest = {
        "trials": 1,
        "startup_trials": 1,
        "min_epochs": 0,
        "reduction_factor": 2,
        "heartbeat_seconds": 1,
        "seed": 0,
    }
    for name, least in lowest.items():
        if getattr(config, name) < least:
            raise UserError(f"sweep.{name} should be {least} or more, got {getattr(config, name)}")


def prunes(config: SearchConfig, stage: str) -> bool:
    """Whether trials can be ended early: they need one score per epoch, and one objective."""
    return config.pruner == "halving" and stage != "finetune" and len(config.objectives) == 1


def pruner(config: SearchConfig, stage: str, *, epochs: int) -> BasePruner:
    """What ends trials of so many epochs early. Raises UserError where it would never look at one."""
    if not prunes(config, stage):
        return NopPruner()
    if config.min_epochs >= epochs:
        raise UserError(
            f"sweep.min_epochs should be less than the {epochs} epochs of a training, got "
            f"{config.min_epochs}; sweep.pruner=none trains all trials to their end"
        )
    return SuccessiveHalvingPruner(config.min_epochs or max(1, epochs // 5), config.reduction_factor)


def sampler(config: SearchConfig, *, seed: int | None) -> BaseSampler:
    """What chooses values; None seeds it afresh. Trials that run count as bad ones for the time being."""
    if config.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=config.startup_trials, constant_liar=True)
