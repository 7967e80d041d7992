"""Successive halving: which trials of a sweep are ended early."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptf.errors import UserError
from adaptf.sweeps.places import Place
from adaptf.sweeps.study import SearchConfig


@dataclass(frozen=True)
class Halving:
    """Successive halving without waiting (Li et al., 2020): at certain epochs only the best of those that came there go on.

    A trial is judged by its best validation until then, as its checkpoint is. Optuna's own pruner keeps what a lost trial had
    reached beside its next try, and so counts it twice.
    """

    min_epochs: int
    """The first epochs at which trials are looked at; then so many times `factor`, and so on, while the training is at least
    as many times longer: near its end there is little to save."""
    factor: int
    max_epochs: int
    """Those of a training: whoever comes there is complete."""

    @property
    def looks(self) -> bool:
        """Whether a training is long enough for one."""
        return self.min_epochs * self.factor <= self.max_epochs

    def looks_at(self, epoch: int, before: Iterable[int]) -> list[int]:
        """The epochs whose look is due at this one; `before` are the epochs that were validated until then."""
        reached, rung, due = max(before, default=0), self.min_epochs, []
        while rung <= epoch and rung * self.factor <= self.max_epochs:
            due += [rung] if reached < rung else []
            rung *= self.factor
        return due

    def ends(self, place: int, epoch: int, score: float, before: Mapping[int, float], places: Sequence[Place]) -> bool:
        """Whether a trial ends with this score; `before` are those that it had until then, by epoch."""
        best = max(score, *before.values(), 0.0)
        for rung in self.looks_at(epoch, before):
            others = [best_until(rung, one.last.intermediate_values) for one in places if one.number != place]
            if falls_behind(best, [value for value in others if value is not None], self.factor):
                return True
        return False


def halving_of(search: SearchConfig, settings: Any) -> Halving:
    """Looks at trials from a fifth of the epochs on where nothing else is said.

    Raises UserError where the epochs that were given leave no look.
    """
    epochs = settings.optim.max_epochs
    halving = Halving(search.min_epochs or max(1, epochs // 5), search.reduction_factor, epochs)
    if search.min_epochs and not halving.looks:
        longest = epochs // search.reduction_factor
        useful = f"should be {longest} or less" if longest else "can't be had"
        raise UserError(
            f"sweep.min_epochs {useful}, got {search.min_epochs}: after a look a training of {epochs} epochs should become "
            f"{search.reduction_factor} times as long (sweep.reduction_factor), or there is nothing to save. "
            "sweep.pruner=none trains all trials to their end"
        )
    return halving


def best_until(rung: int, scores: Mapping[int, float]) -> float | None:
    """The best score until this epoch, or the first validation after it; None where there was none so far."""
    looked = min((epoch for epoch in scores if epoch >= rung), default=None)
    return None if looked is None else max(value for epoch, value in scores.items() if epoch <= looked)


def falls_behind(score: float, others: Sequence[float], factor: int) -> bool:
    """Whether a score is not among the best, one in `factor`; fewer scores than that decide nothing."""
    ranked = sorted([*others, score], reverse=True)
    return len(ranked) >= factor and score < ranked[len(ranked) // factor - 1]
