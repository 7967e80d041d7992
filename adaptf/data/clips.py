"""The clip table: one row per clip, whatever data set it comes from.

Columns: filename (relative to the data set's folder; parts of longer files as parts.py names them), scene,
device, location, city ('' where unknown), split (train, validation or test).
"""

from collections.abc import Callable, Sequence

import pandas as pd

from adaptf.data.errors import raise_problems
from adaptf.data.parts import MARK
from adaptf.names import UNKNOWN as UNKNOWN
from adaptf.names import stored

COLUMNS = ["filename", "scene", "device", "location", "city", "split"]
SPLITS = TRAIN, VALIDATION, TEST = "train", "validation", "test"

_LONGEST_NAME = 200
"""Bytes of a device's name as it is stored:
a file's has 255 at most with what is around it, a metric's 250 characters."""
NO_DEVICES = ("all", "none", "router", "macro average", "known devices", "unknown devices")
"""`promote` moves `all` devices, the registry's `router` is that of all of them, `none` stands for no value,
and tables have rows of the others beside those of devices."""
NO_SCENES = (
    "filename", "scene", "device", "location", "predicted", "probability", "probability of the true scene",
    "device_asked", "device_used", "version_used", "macro average", "log loss",
)  # fmt: skip
"""Columns and rows of tables beside those of scenes."""

_DEVICES_TOLD = 10
"""Of those that lack scenes; the table of a data set's report has all of them."""

FIRST_ROW = 2
"""Of a table as an editor counts its lines: the first one names the columns."""


def check_clips(table: pd.DataFrame, *, scenes: Sequence[str], source: str) -> None:
    """Raises DataError for rows without a value,
    of an unknown scene or for a file that another row names too.

    The table's index is the place of a row in the file that it was read from.
    """
    filename, scene, device = table["filename"], table["scene"], table["device"]
    wrong = {
        "filename, scene and device must not be empty": (filename == "") | (scene == "") | (device == ""),
        f"the scene should be one of {', '.join(scenes)}": (scene != "") & ~scene.isin(scenes),
        "device names must not hold signs that can't be seen": _once(
            device, lambda name: not name.isprintable()
        ),
        f"device names must not exceed {_LONGEST_NAME} bytes, of which a sign other than '-' and '_' takes 7 "
        "to 9": _once(device, lambda name: len(stored(name).encode(errors="replace")) > _LONGEST_NAME),
        f"no device can be called {', '.join(NO_DEVICES)}: these words stand for something else": _once(
            device, lambda name: name.casefold() in NO_DEVICES
        ),
        f"no scene can be called {', '.join(NO_SCENES)}: tables have columns and rows of these names": _once(
            scene, NO_SCENES.__contains__
        ),
        f"device names must differ by more than capitals from '{UNKNOWN}' and each other: files are called "
        f"after them, and some systems take those for one": ~device.duplicated()
        & (device.str.casefold().duplicated() | (device != UNKNOWN) & (device.str.casefold() == UNKNOWN)),
        f"file names must not hold '{MARK}', which marks parts of files": filename.str.contains(
            MARK, regex=False
        ),
        "a row above names this file too": filename.duplicated(),
    }
    problems = [
        f"row {row + FIRST_ROW}, {filename[row]} (scene {scene[row]!r}, device {device[row]!r}): {what}"
        for what, rows in wrong.items()
        for row in table.index[rows.to_numpy(dtype=bool)]
    ]
    if table.empty:
        problems.append("no clips")
    raise_problems(problems, of=source)


def _once(names: pd.Series, is_wrong: Callable[[str], bool]) -> pd.Series:
    """Where a name that is wrong stands for the first time."""
    wrong = {name: is_wrong(name) for name in names.unique()}
    return names.map(wrong).astype(bool) & ~names.duplicated()


def check_parts(table: pd.DataFrame, *, source: str) -> None:
    """Raises DataError where nothing can be trained on the clips:
    no training or validation clips, or none of a scene."""
    parts = table.groupby("scene")["split"].agg(set)
    problems = [
        f"scene {scene} has no training clips" for scene, splits in parts.items() if TRAIN not in splits
    ]
    if not (table["split"] == VALIDATION).any():
        problems.append(
            "there are no validation clips, by which training chooses its checkpoint: each scene needs three "
            "files or more to be cut (one for training, validation and test each), and data.validation_share "
            "should be above 0; or say in a column 'split' which clips are for validation"
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
    """Scenes that a device has clips of for training or validation alone,
    although there are others of the scene."""
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
