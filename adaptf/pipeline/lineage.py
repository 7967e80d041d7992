"""The runs that a model came from, as a tree."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT

from adaptf.errors import UserError
from adaptf.names import written
from adaptf.pipeline.artifacts import (
    BEST_ACCURACY,
    BEST_PRECISION,
    DEVICE_RUNS,
    DEVICE_TAG,
    INT8_ACCURACY,
    KEPT,
    SERVED_ACCURACY,
    TRAINING_CLIPS,
)
from adaptf.tracking import production, runs
from adaptf.tracking.runs import NONE
from adaptf.tracking.tags import DATA_DIGEST, FILE, REFIT, SCORE, STAGE, UPSTREAM

_JUDGES = ("evaluate",)
"""Stages that nothing came from: what they judged is not shown below them."""
_FORMER_SCORES = {
    "prepare": TRAINING_CLIPS,
    "pretrain": BEST_PRECISION,
    "train": BEST_ACCURACY,
    "teacher": BEST_ACCURACY,
    "distill": BEST_ACCURACY,
    "finetune_device": KEPT,
    "quantize": INT8_ACCURACY,
    "evaluate": SERVED_ACCURACY,
}
"""By stage, of runs that were made before a run itself told its score."""
_MOST_SCORES = 8
FILE_STAGE = "file"
"""In place of a stage: it is a checkpoint file of the user's."""
_VERSION_URI = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>[^/@]+))")


@dataclass(frozen=True)
class Node:
    """A run, or a checkpoint file, with those that it took from."""

    run_id: str
    name: str = ""
    stage: str = ""
    experiment_id: str = ""
    scores: tuple[tuple[str, float], ...] = ()
    commit: str = ""
    data_digest: str = ""
    refit: bool = False
    """Whether it learnt from the validation clips."""
    remark: str = ""
    """Such as that it was deleted."""
    upstream: tuple["Node", ...] = ()


@dataclass(frozen=True)
class _Origin:
    """Where a tree begins."""

    title: str
    run_id: str
    device: str | None = None
    """The only one whose fine-tuning is shown; None: that of all."""


def origin_of(model: str) -> _Origin:
    """Of `models:/name@alias`, `models:/name/version` or a run's id.
    Raises UserError where there is no such thing."""
    if re.fullmatch(r"\w+", model):
        return _origin_of_run(model)
    found = version_of(
        model, what="model", wanted="models:/adaptf-s1@production, models:/adaptf-s1/3 or a run's id"
    )
    if not found.run_id:
        raise UserError(
            f"{found.name} version {found.version} names no run that it came from: it was not registered by "
            "`register`"
        )
    place = ", in production" if production.production_or_none(found.name) == str(found.version) else ""
    return _Origin(
        f"{found.name} version {found.version}{place}", str(found.run_id), found.tags.get(DEVICE_TAG)
    )


def version_of(uri: str, *, what: str, wanted: str) -> ModelVersion:
    """Of `models:/name@alias` or `models:/name/version`.
    Raises UserError where there is none, or the URI is no such `what`."""
    parts = _VERSION_URI.fullmatch(uri)
    if parts is None:
        raise UserError(f"{uri!r} is no {what}: give {wanted}")
    try:
        version = parts["version"] or _version_by_alias(parts["name"], parts["alias"])
        return mlflow.MlflowClient().get_model_version(parts["name"], version)
    except MlflowException as error:
        raise UserError(f"there is no {uri} in {mlflow.get_registry_uri()}: {error.message}") from error


def _origin_of_run(run_id: str) -> _Origin:
    """Of any run, finished or not."""
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        raise UserError(f"there is no run '{run_id}' in {mlflow.get_tracking_uri()}") from error
    return _Origin(f"run {run_id}", run_id, run.data.tags.get(DEVICE_TAG))


def _version_by_alias(name: str, alias: str) -> str:
    """What is in production may have no alias, where it was put there by its stage."""
    if alias == production.ALIAS:
        return production.resolve_production(name)
    return str(mlflow.MlflowClient().get_model_version_by_alias(name, alias).version)


def tree(run_id: str, device: str | None = None) -> Node:
    """A run and all that it came from. Runs that are gone are named, with a remark."""
    return node_of(run_id, device, {})


def node_of(run_id: str, device: str | None, known: dict[str, Node]) -> Node:
    """Each run is read once, also where several took from it."""
    if run_id not in known:
        try:
            run = mlflow.get_run(run_id)
        except MlflowException:
            known[run_id] = Node(run_id, remark="missing: it was deleted" if run_id.isalnum() else "a file")
        else:
            taken = tuple(node_of(taken, device, known) for taken in _upstream_ids(run, device))
            known[run_id] = replace(_described(run, device), upstream=(*_files_read(run, device), *taken))
    return known[run_id]


def _files_read(run: Run, device: str | None) -> tuple[Node, ...]:
    """The checkpoint files that a run took from:
    where there is one for each device, that of one device, or all."""
    fields: dict[str, dict[str, str]] = {}
    if run.data.tags.get(STAGE, "") in _JUDGES:
        return ()
    for tag, label in sorted(run.data.tags.items()):
        if tag.startswith(FILE):
            field, _, of = tag.removeprefix(FILE).partition("/")
            fields.setdefault(field, {})[written(of)] = label
    chosen = [files if device not in files else {device: files[device]} for files in fields.values()]
    return tuple(file_node(label) for files in chosen for label in files.values())


def file_node(label: str) -> Node:
    """A checkpoint file, which nothing is known to come from."""
    return Node(label, name=label, stage=FILE_STAGE)


def _described(run: Run, device: str | None) -> Node:
    """What a run's line tells."""
    tags = run.data.tags
    stage = tags.get(STAGE, "")
    begin = tags.get(SCORE) or _FORMER_SCORES.get(stage, "\0")
    scores = sorted((name, value) for name, value in run.data.metrics.items() if name.startswith(begin))
    whole = [(name, value) for name, value in scores if name == begin]
    of_device = [(name, value) for name, value in scores if written(name.rpartition("/")[2]) == device]
    return Node(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        stage=stage,
        experiment_id=run.info.experiment_id,
        scores=tuple(whole or of_device or scores),
        commit=tags.get(MLFLOW_GIT_COMMIT, ""),
        data_digest=tags.get(DATA_DIGEST, ""),
        refit=REFIT in tags,
        remark=_remark(run),
    )


def _remark(run: Run) -> str:
    if run.info.lifecycle_stage == "deleted":
        return "deleted"
    return "not finished" if runs.is_interrupted(run) else ""


def _upstream_ids(run: Run, device: str | None) -> list[str]:
    """The runs that a run took from; data come last, because every run took from those."""
    stage = run.data.tags.get(STAGE, "")
    if stage in _JUDGES:
        return []
    if children := _child_ids(run, device):
        return children  # they took from what their parent took from
    tags = run.data.tags
    files = {tag.removeprefix(FILE).partition("/")[0] for tag in tags if tag.startswith(FILE)}
    fields = {
        tag: value
        for tag, value in tags.items()
        if tag.startswith(UPSTREAM) and tag.removeprefix(UPSTREAM) not in files
    }
    ordered = sorted(fields, key=lambda tag: (tag == f"{UPSTREAM}prepare_run", tag))
    return list(
        dict.fromkeys(one for tag in ordered for one in fields[tag].split(",") if one not in ("", NONE))
    )


def _child_ids(run: Run, device: str | None) -> list[str]:
    """The runs in which the work of `finetune` was done: of one device, or of all; none for other stages."""
    if run.data.tags.get(STAGE) != "finetune":
        return []
    try:
        models = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/{DEVICE_RUNS}")
    except (MlflowException, OSError, ValueError):
        return []
    return [str(child) for of, child in models.items() if device in (None, of)]


def flat(node: Node) -> list[Node]:
    """Every run of a tree once, as the tree shows them."""
    found = {node.run_id: node}
    for one in node.upstream:
        found |= {each.run_id: each for each in flat(one) if each.run_id not in found}
    return list(found.values())


def refits_behind(run_id: str, device: str | None = None) -> list[str]:
    """Names of the runs that learnt from the validation clips, among a run and all that it came from."""
    return [node.name for node in flat(tree(run_id, device)) if node.refit]


def as_text(title: str, root: Node) -> str:
    """The tree, a line per run; what stands there a second time is not drawn below it again."""
    return "\n".join([title, *_drawn((root,), "", set())])


def _drawn(nodes: tuple[Node, ...], indent: str, shown: set[str]) -> Iterator[str]:
    """Lines of some runs and what is below them; `shown` grows by them."""
    for place, node in enumerate(nodes):
        last = place == len(nodes) - 1
        again = node.run_id in shown
        shown.add(node.run_id)
        yield f"{indent}{'└─' if last else '├─'} {_repeated(node) if again else line(node)}"
        if not again:
            yield from _drawn(node.upstream, f"{indent}{'   ' if last else '│  '}", shown)


def line(node: Node) -> str:
    """Name, stage, id, scores, code and data of a run."""
    if not node.name:
        return f"{node.run_id} ({node.remark})"
    parts = [_name_and_stage(node), *([] if node.stage == FILE_STAGE else [node.run_id])]
    shown = [f"{name} {value:.4g}" for name, value in node.scores[:_MOST_SCORES]]
    parts += [", ".join(shown)] if shown else []
    parts += [f"git {node.commit[:7]}"] if node.commit else []
    parts += [f"data {node.data_digest[:8]}"] if node.data_digest else []
    return "  ".join(parts) + (f"  ({node.remark})" if node.remark else "")


def _repeated(node: Node) -> str:
    """A run that stands above."""
    return f"{_name_and_stage(node) or node.run_id}  (see above)"


def _name_and_stage(node: Node) -> str:
    """The stage is told where the name does not begin with it."""
    return node.name if node.name.startswith(node.stage) else f"{node.name} [{node.stage}]"
