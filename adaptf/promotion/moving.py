"""Putting versions into production, or back: all of them by one run at a time, with what is kept of it."""

from collections.abc import Callable, Mapping, Sequence

import mlflow

from adaptf.errors import UserError
from adaptf.pipeline.artifacts import PROMOTED, REPLACED
from adaptf.promotion.turn import turn
from adaptf.tracking import production, registry
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import NONE
from adaptf.tracking.stage_run import StageRun

ALL = "all"
"""In place of a device: every model, and the router."""
_REASON, _OVERRIDDEN, _MOVED_BY = "adaptf.reason", "adaptf.overridden", "adaptf.promote_run"
"""Tags of the run and of the version;
the last, of the version alone, is the run that put it into production."""
_LONGEST_TAG = 5000


def model_name(device: str) -> str:
    """Registered model of a device, or of `router`."""
    return registry.ROUTER_NAME if device == "router" else registry.device_model_name(device)


def move(
    wanted: Mapping[str, str],
    run: StageRun,
    put: Callable[[str, str], object] = production.promote,
    *,
    seen: Mapping[str, str | None],
    reason: str,
    overridden: Sequence[str] = (),
    remark: str = "",
) -> Result:
    """Puts versions into production, and writes with them and with the run what moved, why,
    and in spite of what.

    `seen` are the versions in production that were known when this was decided.
    Raises UserError where one has changed since.
    """
    kept = {_REASON: reason.strip(), _OVERRIDDEN: "\n".join(overridden)}
    kept = {tag: text[:_LONGEST_TAG] for tag, text in kept.items() if text}
    former = {name: seen[name] or NONE for name in wanted}
    client = mlflow.MlflowClient()
    with turn(run.run_id) as still_mine:
        _check_unchanged(seen)
        for name, version in wanted.items():
            still_mine()
            put(name, version)
            for tag, text in (kept | {_MOVED_BY: run.run_id}).items():
                client.set_model_version_tag(name, version, tag, text)
            # One by one: where a later one breaks off, the run tells what has moved.
            mlflow.set_tags({f"{PROMOTED}{name}": version, f"{REPLACED}{name}": former[name]})
            print(
                f"{run.name}: {name} version {version} is in production (before: {former[name]})", flush=True
            )
    lines = "\n".join(f"| {name} | {former[name]} | {version} |" for name, version in wanted.items())
    note = [f"| model | before | in production |\n|---|---:|---:|\n{lines}", remark]
    note += [f"**Reason:** {reason.strip()}"] if reason.strip() else []
    note += (
        ["**Forced, in spite of:**\n\n" + "\n".join(f"- {problem}" for problem in overridden)]
        if overridden
        else []
    )
    return Result(tags=kept, note="\n\n".join(part for part in note if part))


def _check_unchanged(seen: Mapping[str, str | None]) -> None:
    """Raises UserError where what is in production is not what the gates saw there."""
    changed = [
        f"{name} version {now or NONE} (before: {former or NONE})"
        for name, former in seen.items()
        if (now := production.production_or_none(name)) != former
    ]
    if changed:
        raise UserError(
            f"nothing was moved: while the gates were at work, somebody put in production "
            f"{', '.join(changed)}; start again"
        )
