"""What DCASE 2025 Task 1 forbids, as far as runs tell it."""

from collections.abc import Iterable

import pandas as pd

from adaptf.data.clips import TEST
from adaptf.data.parquet import read_table
from adaptf.data.sets.published_lists import is_in, is_in_tau, tau_split
from adaptf.errors import UserError
from adaptf.pipeline.artifacts import CLIPS, DATA
from adaptf.pipeline.lineage import FILE_STAGE, Node
from adaptf.tracking.stage_run import StageRun

_TAU_NAME = r"audio/[a-z_]+-[a-z]+-\d+-\d+-\d+-(?:a|b|c|s\d+)\.wav"
"""A clip that is on none of the published lists may still be one of TAU 2022 Mobile."""


def check_training_clips(run: StageRun, came: Iterable[Node]) -> None:
    """Raises UserError that names the runs of `prepare` with training or validation clips of TAU 2022 Mobile
    beyond the 25 % list, by the files' names: 'models must be trained on the 25% subset'."""
    problems = []
    for node in came:
        if node.stage == "prepare" and not node.remark:
            table = read_table(run.download(node.run_id, DATA) / CLIPS)
            beyond = _beyond_the_list(table.loc[table["split"] != TEST, "filename"])
            if len(beyond):
                problems.append(
                    f"{len(beyond)} clips of {node.name} ({node.run_id}), such as {beyond.iloc[0]}"
                )
    if problems:
        raise UserError(
            "the challenge forbids training on more of TAU than its 25 % list, and among the runs behind "
            "these models are\n  "
            + "\n  ".join(problems)
            + "\nTrain on data of data.train_split=25 or smaller"
        )


def _beyond_the_list(names: pd.Series) -> pd.Series:
    files = "audio/" + names.str.rpartition("/")[2]
    if not is_in_tau(files).any():
        return files[:0]  # other recordings, which are external data
    return files[files.str.fullmatch(_TAU_NAME) & ~is_in(files, tau_split("25"))]


def untold(came: Iterable[Node]) -> list[str]:
    """Files and deleted runs behind the models: nothing tells what these learnt from."""
    return [node.name or node.run_id for node in came if node.stage == FILE_STAGE or "deleted" in node.remark]
