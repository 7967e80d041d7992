"""One run at a time moves versions, in a whole store: who does says so at the router's registered model.

MLflow can't compare and set, but it tells what was written: a run says that it moves, then looks whether
another one said so. Of two that do this at once, one at least sees the other.
Clocks differ, so whoever says nothing *new* is taken for dead.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import mlflow
from mlflow.exceptions import MlflowException

from adaptf.errors import UserError
from adaptf.tracking.registry import ROUTER_NAME

MOVES = "adaptf.moves."
"""Begin of a tag per run that moves versions: when it last said so, by its own clock."""
LOOK_SECONDS, LOOKS = 2.0, 60
"""Time between two looks at the others, about; how many of them without a sign of life make one dead."""


@contextmanager
def turn(run_id: str) -> Iterator[Callable[[], None]]:
    """Waits until no other run moves versions. What it gives is to be called before each step: it is a sign
    of life, and raises UserError where others took the run for dead."""
    with suppress(MlflowException):  # there is one: nobody has to have registered a router
        mlflow.MlflowClient().create_registered_model(ROUTER_NAME)
    try:
        _wait_for_others(run_id)
        yield partial(_renew, run_id)
    except BaseException:
        with suppress(Exception):  # the first error is what is to be told; who waits takes this run for dead
            _withdraw(run_id)
        raise
    _withdraw(run_id)


def _wait_for_others(run_id: str) -> None:
    """Returns when this run has said that it moves versions, and no other one does."""
    looks: Counter[tuple[str, str]] = Counter()
    while True:
        _announce(run_id)
        others = _all_that_move()
        if others.keys() == {run_id}:
            return
        _withdraw(run_id)
        others.pop(run_id, None)
        looks.update(others.items())
        for dead in [run for run, said in others.items() if looks[run, said] > LOOKS]:
            _withdraw(dead)
        if looks.total() == len(others):
            print(f"waits: run {', '.join(others)} moves versions at the moment", flush=True)
        time.sleep(LOOK_SECONDS * random.uniform(0.5, 1.5))


def _announce(run_id: str) -> None:
    """Says that a run moves versions, and lives."""
    mlflow.MlflowClient().set_registered_model_tag(ROUTER_NAME, f"{MOVES}{run_id}", str(time.time_ns()))


def _withdraw(run_id: str) -> None:
    """Says that a run moves none any more."""
    mlflow.MlflowClient().delete_registered_model_tag(ROUTER_NAME, f"{MOVES}{run_id}")


def _renew(run_id: str) -> None:
    if run_id not in _all_that_move():
        raise UserError(
            "nothing more was moved: this run said nothing for so long that another one, which moves "
            "versions too, took it for dead. See what is in production, and start again"
        )
    _announce(run_id)


def _all_that_move() -> dict[str, str]:
    """What runs said last, by their ids."""
    tags = mlflow.MlflowClient().get_registered_model(ROUTER_NAME).tags
    return {tag.removeprefix(MOVES): said for tag, said in tags.items() if tag.startswith(MOVES)}
