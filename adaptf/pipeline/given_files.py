"""What a stage takes in the place of an upstream run: checkpoint files, checked before any work."""

from collections.abc import Mapping
from pathlib import Path

from adaptf.models.checkpoint import read_checkpoint
from adaptf.pipeline.config import Files
from adaptf.tracking.checkpoint_files import FORMS, files_of, from_root, is_several
from adaptf.tracking.runs import UpstreamError


def given_files(field: str, value: str, *, stage: str, takes: Files) -> str:
    """The value with paths from the root on; '' where it names runs. `stage`: the one whose run is wanted.

    Raises UserError where the field takes no such thing, or a file is no checkpoint.
    """
    several = is_several(value)
    if not (several or is_path(value) or files_of(value)):
        return ""
    if takes == "none":
        raise UpstreamError(
            f"{field} takes runs of '{stage}', by their ids or as 'latest', and no files; '{value}' was "
            f"given. mlflow run . -e {stage} --env-manager local makes such a run"
        )
    wanted = f"{field} takes a run of '{stage}' or a checkpoint file" + (
        f", {FORMS}" if takes == "per device" else ""
    )
    if several and takes == "one":
        raise UpstreamError(f"{wanted}, for one model; '{value}' stands for one per device")
    files = files_of(value)
    if not files:
        raise UpstreamError(f"{wanted}; there is no such thing as '{value}'")
    check_readable(files)
    return from_root(value)


def is_path(value: str) -> bool:
    """Whether it looks like a file, a folder or a mapping, and unlike ids of runs."""
    return any(sign in value for sign in "/\\.~{")


def check_readable(files: Mapping[str, Path]) -> None:
    """Raises CheckpointError for what is no checkpoint."""
    for path in files.values():
        read_checkpoint(path)
