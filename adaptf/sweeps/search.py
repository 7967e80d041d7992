"""How a sweep searches: its settings, and the sampler and pruner that they mean."""

import re
from dataclasses import dataclass
from typing import Literal

from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler

from adaptf.errors import UserError
from adaptf.pipeline.config import file_or_name

BESIDE = "default"
_Pruning = Literal["halving", "none"]
_GOES_ON = 3
"""One trial in so many does at each look, and the next look comes after so many times the epochs."""


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
    seed: int = 0
    """Of the sampler (a tree-structured Parzen estimator, Bergstra et al., 2011) of the worker that begins
    the study: alone and without interruption it gives the same trials again."""
    pruner: _Pruning = "halving"
    """halving: ends trials that are not among the best at some epochs (successive halving, Li et al., 2020).
    none."""
    min_epochs: int = 0
    """Epochs after which halving first looks at a trial; 0: a fifth of the training's."""
    heartbeat_seconds: int = 20
    """How often a worker tells the database that it is alive; without news for three times as long its trial
    is run again."""


def check_search(config: SearchConfig) -> None:
    """Raises UserError for values that nothing can be searched with."""
    if not re.fullmatch(r"[\w.-]+", config.study):
        raise UserError(
            f"sweep.study should be a name of letters, digits, '.', '-' and '_', got '{config.study}'"
        )
    for name, least in {"trials": 1, "min_epochs": 0, "heartbeat_seconds": 1, "seed": 0}.items():
        if getattr(config, name) < least:
            raise UserError(f"sweep.{name} should be {least} or more, got {getattr(config, name)}")


def prunes(config: SearchConfig, stage: str) -> bool:
    """Whether trials can be ended early: they need one score per epoch."""
    return config.pruner == "halving" and stage != "finetune"


def pruner(config: SearchConfig, stage: str, *, epochs: int) -> BasePruner:
    """What ends trials of so many epochs early. Raises UserError where it would never look at one."""
    if not prunes(config, stage):
        return NopPruner()
    if config.min_epochs >= epochs:
        raise UserError(
            f"sweep.min_epochs should be less than the {epochs} epochs of a training, got "
            f"{config.min_epochs}; sweep.pruner=none trains all trials to their end"
        )
    return SuccessiveHalvingPruner(config.min_epochs or max(1, epochs // 5), _GOES_ON)


def sampler(*, seed: int | None) -> BaseSampler:
    """What chooses values; None seeds it afresh. Trials that run count as bad ones for the time being."""
    return TPESampler(seed=seed, constant_liar=True)
