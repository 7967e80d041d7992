"""What starting and ending a trial costs beside its training, alone and where trials share what they read.

python benchmarks/trials.py, in the folder of a finished `mlflow run .
--env-manager local -P preset=demo` or with its
MLFLOW_TRACKING_URI: a `distill` of three epochs on its latest runs, again and again, the kinds taking turns.
"""

import contextlib
import io
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import mlflow
from measure import machine

from adaptf.data.shared_objects import SharedObjects
from adaptf.mlproject.distill import DISTILL, DistillConfig
from adaptf.pipeline.command_line import parse
from adaptf.pipeline.stage import execute, quiet_libraries
from adaptf.tracking.store import open_store
from adaptf.training.task import ClassifierTask

REPEATS = 7
CLOCKS = {"wall clock": time.perf_counter, "processor": time.process_time}
Times = dict[str, float]
"""Clock -> seconds."""


@dataclass(frozen=True)
class Costs:
    """Of one trial."""

    before: Times
    """Until the first training step."""
    after: Times
    """From the last validation on."""
    training: Times
    """What lies between."""


def main() -> None:
    """Prints medians and smallest values."""
    quiet_libraries()
    open_store()
    arguments = ["--preset=demo", "--optim.max_epochs=3", "--trainer.accelerator=cpu"]
    with_dir = parse(DistillConfig, stage="distill", arguments=arguments)
    without = replace(with_dir, augment=replace(with_dir.augment, dir_p=0.0))
    forgetful = replace(without, trainer=replace(without.trainer, log_mel_gb=0.0))
    kinds = {
        "alone": with_dir,
        "sharing": with_dir,
        "sharing, no DIR": without,
        "sharing, no DIR, no log-mels kept": forgetful,
    }
    shared = SharedObjects()
    costs: dict[str, list[Costs]] = {kind: [] for kind in kinds}
    for _ in range(REPEATS + 1):
        for kind, config in kinds.items():
            costs[kind].append(costs_of(config, SharedObjects() if kind == "alone" else shared))
    print(f"{machine()}; {REPEATS} trials of each kind, seconds: median (smallest)")
    for clock in CLOCKS:
        print(f"{clock:36}{'before':>14}{'after':>14}{'training':>14}")
        for kind, trials in costs.items():
            parts = (
                [getattr(trial, part)[clock] for trial in trials[1:]]
                for part in ("before", "after", "training")
            )
            print(
                f"{kind:>36}"
                + "".join(f"{statistics.median(taken):7.2f} ({min(taken):.2f})" for taken in parts)
            )


def costs_of(config: DistillConfig, shared: SharedObjects) -> Costs:
    """Runs one trial without its output; its run is deleted, so that `latest` does not mean it."""
    validated: list[Times] = []
    with (
        training_steps() as steps,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        start = now()
        run_id = execute(DISTILL, config, watch=lambda epoch, score: validated.append(now()), shared=shared)
        end = now()
        mlflow.delete_run(run_id)
    return Costs(between(start, steps[0]), between(validated[-1], end), between(steps[0], validated[-1]))


def now() -> Times:
    """By each clock."""
    return {name: clock() for name, clock in CLOCKS.items()}


def between(start: Times, end: Times) -> Times:
    """By each clock."""
    return {clock: end[clock] - start[clock] for clock in CLOCKS}


@contextlib.contextmanager
def training_steps() -> Iterator[list[Times]]:
    """The times at which training steps begin."""
    step = ClassifierTask.training_step
    begun: list[Times] = []

    def timed(task: ClassifierTask, *arguments: Any) -> Any:
        begun.append(now())
        return step(task, *arguments)

    ClassifierTask.training_step = timed  # type: ignore[method-assign]
    try:
        yield begun
    finally:
        ClassifierTask.training_step = step  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
