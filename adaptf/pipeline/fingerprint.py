"""What decides a stage's result, as one digest: runs alike have the same, and one of them stands for all."""

import ast
import json
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlflow

from adaptf.data.decode import AUDIO_SUFFIXES
from adaptf.data.folders import files_below
from adaptf.files import sha256_of
from adaptf.pipeline.config import content_folders, upstream_fields
from adaptf.tracking import runs
from adaptf.tracking.checkpoint_files import digests_of
from adaptf.tracking.runs import NONE

_PACKAGE = Path(__file__).parents[1]


def fingerprint(stage: str, config: Any, reads: str) -> str:
    """Digest of a stage's name, its settings, the code, what it reads,
    and what its upstream runs were made from."""
    upstream = {one.name: _upstream(getattr(config, one.name)) for one in upstream_fields(config)}
    files = [
        folder / name
        for folder in content_folders(config)
        for name in files_below(folder, suffixes=AUDIO_SUFFIXES)
    ]
    contents = {str(path): sha256_of(path) for path in files}
    values = _deciding(config) | upstream | contents
    return runs.digest(stage, json.dumps(values, sort_keys=True, default=str), _code_digest(), reads)


def _deciding(config: Any) -> dict[str, Any]:
    """The settings that can change a result, by section: all but those that `config.aside` made."""
    values = {one.name: getattr(config, one.name) for one in fields(config) if "aside" not in one.metadata}
    return {name: _deciding(value) if is_dataclass(value) else value for name, value in values.items()}


def _upstream(value: str) -> str:
    """Of a list of run ids, `none`, or the content of checkpoint files."""
    if value == NONE:
        return NONE
    if digests := digests_of(value):
        return json.dumps(digests)
    return ",".join(runs.fingerprint_of(mlflow.get_run(run_id)) for run_id in value.split(","))


@cache
def _code_digest() -> str:
    """Digest of this package's code as this process found it.
    Comments, docstrings and layout are no part of it."""
    sources = sorted(path for kind in ("py", "cpp", "html") for path in _PACKAGE.rglob(f"*.{kind}"))
    return runs.digest(
        *(f"{path.relative_to(_PACKAGE)}\0{code_of(path.read_text(), path.suffix)}" for path in sources)
    )


def code_of(source: str, suffix: str = ".py") -> str:
    """What of a file runs."""
    if suffix != ".py":
        return source
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    """A docstring, of a function or of the value above it."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
