"""The clip table: one row per clip, whatever data set it comes from.

Columns: filename (relative to the data set's folder; parts of longer files as parts.py names them), scene, device, location,
city ('' where unknown), split (train, validation or test).
"""

from collections.abc import Sequence

import pandas as pd

from adaptf.data.errors import raise_problems
from adaptf.data.parts import MARK

COLUMNS = ["filename", "scene", "device", "location", "city", "split"]
SPLITS = TRAIN, VALIDATION, TEST = "train", "validation", "test"
UNKNOWN = "unknown"
"""Stands for every recording device that has no model of its own."""

_DEVICE_NAME = r"[\w -]{1,100}"
_NO_DEVICES = ("all", "none", "router")
"""`promote` moves `all` devices, the registry's `router` is that of all of them, and `none` stands for no value."""

_DEVICES_TOLD = 10
"""Of those that lack scenes; the table of a data set's report has all of them."""

FIRST_ROW = 2
"""Of a table as an editor counts its lines: the first one names the columns."""


def check_clips(table: pd.DataFrame, *, scenes: Sequence[str], source: str) -> None:
    """Raises DataError for rows without a value, of an unknown scene or for a file that another row names too.

    The table's index is the place of a row in the file that it was read from.
    """
    filename, scene, device = table["filename"], table["scene"], table["device"]
    wrong = {
        "filename, scene and device must not be empty": (filename == "") | (scene == "") | (device == ""),
        f"the scene should be one of {', '.join(scenes)}": (scene != "") & ~scene.isin(scenes),
        "device names must not hold '/' or ':' or anything else but letters, digits, blanks, '-' and '_', which MLflow's names "
        "of models and metrics take": (device != "")
        & ~device.str.fullmatch(_DEVICE_NAME)
        & ~device.duplicated(),
        f"no device can be called {', '.join(_NO_DEVICES)}: stages take these words for something else": device.isin(
            _NO_DEVICES
        )
        & ~device.duplicated(),
        f"file names must not hold '{MARK}', which marks parts of files": filename.str.contains(
            MARK, regex=False
        ),
        "a row above names this file too": filename.duplicated(),
    }
    problems = [
        f"row {row + FIRST_ROW}, {filename[row]} (scene '{scene[row]}', device '{device[row]}'): {what}"
        for what, rows in wrong.items()
        for row in table.index[rows.to_numpy(dtype=bool)]
    ]
    if table.empty:
        problems.append("no clips")
    raise_problems(problems, of=source)


def check_parts(table: pd.DataFrame, *, source: str) -> None:
    """Raises DataError where nothing can be trained on the clips: no training or validation clips, or none of a scene."""
    parts = table.groupby("scene")["split"].agg(set)
    problems = [
        f"scene {scene} has no training clips" for scene, splits in parts.items() if TRAIN not in splits
    ]
    if not (table["split"] == VALIDATION).any():
        problems.append(
            "there are no validation clips, by which training chooses its checkpoint: each scene needs three files or more to "
            "be cut (one for training, validation and test each), and data.validation_share should be above 0; or say in a "
            "column 'split' which clips are for validation"
        )
    raise_problems(problems, of=f"the splits of {source}")


def gaps(table: pd.DataFrame, scenes: Sequence[str]) -> list[str]:
    """What the parts lack, although training is possible: a line for each."""
    clips = pd.crosstab(table["scene"], table["split"]).reindex(
        index=list(scenes), columns=list(SPLITS), fill_value=0
    )
    lines = []
    for split in SPLITS:
        lacking = [scene for scene in scenes if clips.loc[scene, split] == 0]
        if split == TEST and len(lacking) == len(scenes):
            lines.append(
                "There are no test clips: evaluate and main need some (data.test_share or a column split)"
            )
        elif lacking:
            lines.append(f"There are no {split} clips of {', '.join(lacking)}")
    return [*lines, *_device_gaps(table)]


def _device_gaps(table: pd.DataFrame) -> list[str]:
    """Scenes that a device has clips of for training or validation alone, although there are others of the scene."""
    learning = table[table["split"] != TEST]
    clips = pd.crosstab([learning["device"], learning["scene"]], learning["split"])
    lines = []
    for split in clips.columns:
        lacking = clips.index[clips[split] == 0].to_frame(index=False)
        lacking = lacking[lacking["scene"].isin(learning.loc[learning["split"] == split, "scene"])]
        of_devices = [
            f"{device} ({', '.join(scenes)})" for device, scenes in lacking.groupby("device")["scene"]
        ]
        more = [f"{len(of_devices) - _DEVICES_TOLD} devices more"] * (len(of_devices) > _DEVICES_TOLD)
        if of_devices:
            lines.append(
                f"There are no {split} clips of the devices {'; '.join(of_devices[:_DEVICES_TOLD] + more)}"
            )
    return lines


def devices_of(table: pd.DataFrame, split: str = TRAIN) -> list[str]:
    """Device names of a split, sorted."""
    return sorted(table.loc[table["split"] == split, "device"].unique())
