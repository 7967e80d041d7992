"""Stage `rollback`: returns to the version that was in production before."""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from adaptf.errors import UserError
from adaptf.pipeline.stage import Stage, nothing_tells
from adaptf.promotion import gates
from adaptf.promotion.moving import ALL, model_name, move
from adaptf.tracking import production
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import NONE
from adaptf.tracking.stage_run import StageRun


@dataclass(frozen=True)
class RollbackConfig:
    """Returns to the version that was in production before this one."""

    device: str = NONE
    """A device, `router`, or `all`: every model that has a version to go back to."""
    reason: str = ""
    """Why the version is taken back; kept with the run and the version."""


def rollback(config: RollbackConfig, run: StageRun) -> Result:
    """Checks that the earlier versions still route clips as they should before it returns to any."""
    wanted = versions_to_return_to(config.device)
    seen = gates.seen_in_production(wanted)
    with TemporaryDirectory() as folder:
        scratch = replace(run, folder=Path(folder))
        problems = [
            text
            for name, version in wanted.items()
            for text in gates.routing_refusals(name, version, scratch)
        ]
        problems += gates.misfits(wanted, seen, scratch)
    if problems:
        raise UserError("nothing was rolled back:\n  " + "\n  ".join(problems))
    return move(wanted, run, production.roll_back, seen=seen, reason=config.reason)


def versions_to_return_to(device: str) -> dict[str, str]:
    """Registered model -> version. Raises UserError where there is none."""
    if device == NONE:
        raise UserError(
            "give the device whose model goes back: -P device=<device>, device=router or device=all"
        )
    if device != ALL:
        name = model_name(device)
        return {name: production.previous_version(name)}
    found = {model.name: production.previous_or_none(model.name) for model in production.models()}
    wanted = {name: version for name, version in found.items() if version}
    if not wanted:
        raise UserError(f"none of {', '.join(found) or 'no registered models'} has a version to go back to")
    return wanted


ROLLBACK = Stage(
    "rollback",
    run=rollback,
    config=RollbackConfig,
    reads=nothing_tells,
    words=lambda config: [config.device] * (config.device != ALL),
)


if __name__ == "__main__":
    ROLLBACK.main()
