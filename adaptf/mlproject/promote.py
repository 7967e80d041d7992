"""Stage `promote`: puts versions into production once they have passed the gates."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from adaptf.errors import UserError
from adaptf.mlproject.quantize import QuantizeConfig
from adaptf.pipeline.artifacts import VERSIONS
from adaptf.pipeline.config import upstream_optional
from adaptf.pipeline.ranges import NOT_NEGATIVE, SHARE, within
from adaptf.pipeline.stage import Stage, nothing_tells
from adaptf.promotion import comparison as production_comparison
from adaptf.promotion import gates
from adaptf.promotion.moving import ALL, model_name, move
from adaptf.promotion.shadowed import ShadowGate
from adaptf.tracking import outcome
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import NONE
from adaptf.tracking.stage_run import StageRun

GATES = "gates.csv"
"""Artifact: how each version compares with the one in production."""
REGISTERED = "registered"


@dataclass(frozen=True)
class PromoteConfig:
    """Promotes one device's model, or all versions of a `register` run."""

    device: str = ALL
    """A device, `router`, or `all`: every model of the `register` run and the router."""
    version: str = REGISTERED
    """Version number; `registered`: the one that the `register` run made."""
    register_run: str = upstream_optional("register")
    """Run of `register` whose versions are promoted; `none` where device and version name one."""
    tolerable_loss: float = within(SHARE, 0.01)
    """Gate: highest share of the float model's accuracy, from 0 to 1, that quantization may lose, as far as
    the loss stands over places."""
    tolerable_logit_error: float = within(NOT_NEGATIVE, QuantizeConfig().tolerable_logit_error)
    """Gate: highest difference of INT8 logits from float ones, as a share of their spread."""
    shadow_servers: str = NONE
    """Addresses of the servers that let the versions answer beside production, comma separated: what they
    have seen together passes the two gates below."""
    shadow_clips: int = within(NOT_NEGATIVE, 0)
    """Gate: fewest clips that a version of a device's model answered beside production; 0 asks for none."""
    shadow_agreement: float = within(SHARE, 0.0)
    """Gate: lowest share of these clips, from 0 to 1, with the scene that production said."""
    force: bool = False
    """Promotes in spite of the gates of INT8 loss, of the comparison with production and of shadowed clips.
    Needs a reason."""
    reason: str = ""
    """Why the version is promoted; kept with the run and the version, and needed with force."""


def promote_versions(config: PromoteConfig, run: StageRun) -> Result:
    """Checks all versions before it promotes any.
    Raises UserError with what the gates say where one may not go on."""
    with TemporaryDirectory() as folder:  # apart: no other run goes on with what this one downloads
        scratch = replace(run, folder=Path(folder))
        wanted = versions_to_promote(config, scratch)
        verdict = gates.judge(
            wanted,
            scratch,
            tolerable_loss=config.tolerable_loss,
            tolerable_logit_error=config.tolerable_logit_error,
            shadow=shadow_gate(config),
        )
        for found in (*verdict.comparisons, *verdict.shadowed):
            print(f"{run.name}: {found}", flush=True)
        table = Path(folder) / GATES
        production_comparison.comparison_table(verdict.comparisons).to_csv(table, index=False)
        outcome.log_result(Result(metrics=difference_metrics(verdict.comparisons), files={GATES: table}))
    if verdict.refusals or (verdict.objections and not config.force):
        refused = refusal(verdict)
        outcome.log_result(Result(note=refused))
        raise UserError(refused)
    compared = "\n".join(f"- {found}" for found in (*verdict.comparisons, *verdict.shadowed))
    return move(
        wanted, run, seen=verdict.seen, reason=config.reason, overridden=verdict.objections, remark=compared
    )


def check_options(config: PromoteConfig) -> None:
    """Raises UserError where something is forced without a reason, or where of a gate for shadowed clips only
    a part is said."""
    gate = shadow_gate(config)
    if bool(gate.servers) != bool(gate.clips) or (gate.agreement and not gate.servers):
        raise UserError(
            "shadow_servers and shadow_clips belong together, and shadow_agreement to both: give "
            "shadow_servers=http://127.0.0.1:5001 shadow_clips=1000 shadow_agreement=0.9, say"
        )
    if config.force and not config.reason.strip():
        raise UserError(
            "force needs a reason, which is kept with the version: give the option reason='why' too"
        )


def shadow_gate(config: PromoteConfig) -> ShadowGate:
    """What is asked of versions that answered beside production."""
    asked = "" if config.shadow_servers == NONE else config.shadow_servers
    servers = [server.strip() for server in asked.split(",") if server.strip()]
    return ShadowGate(servers, config.shadow_clips, config.shadow_agreement)


def versions_to_promote(config: PromoteConfig, run: StageRun) -> dict[str, str]:
    """Registered model -> version."""
    if config.version != REGISTERED and config.device == ALL:
        raise UserError(
            f"version {config.version} needs a device: give -P device=<device> or device=router too"
        )
    if config.version != REGISTERED:
        return {model_name(config.device): config.version}
    if config.register_run == NONE:
        raise UserError("there is nothing to promote: give a register_run, or a device and a version")
    registered: dict[str, str] = json.loads(run.download(config.register_run, VERSIONS).read_text())
    if config.device == ALL:
        return registered
    name = model_name(config.device)
    if name not in registered:
        raise UserError(
            f"register run {config.register_run} has no model {name}; it has {', '.join(registered)}"
        )
    return {name: registered[name]}


def difference_metrics(comparisons: list[production_comparison.Comparison]) -> dict[str, float]:
    """The differences to production, in points, and their intervals, as metrics.

    A model that is compared twice, as the one in production and as the one in the router there,
    has its versions in the second one's names.
    """
    known = {}
    for found in comparisons:
        if found.difference:
            twice = f"{found.name} {found.version} against {found.former}"
            known[twice if found.name in known else found.name] = found.difference
    return {
        f"difference {end}/{name}": 100 * float(getattr(difference, end))
        for name, difference in known.items()
        for end in ("mean", "low", "high")
    }


def refusal(verdict: gates.Verdict) -> str:
    """Why nothing was promoted, and what can be done about it."""
    text = "\n  ".join(["nothing was promoted:", *verdict.refusals, *verdict.objections])
    if verdict.refusals:
        return text
    return (
        f"{text}\nTo promote in spite of it: -P force=true -P reason='why' (in main: promote.force, "
        "promote.reason)"
    )


PROMOTE = Stage(
    "promote",
    run=promote_versions,
    config=PromoteConfig,
    check=check_options,
    reads=nothing_tells,
    words=lambda config: [config.device] * (config.device != ALL),
)


if __name__ == "__main__":
    PROMOTE.main()
