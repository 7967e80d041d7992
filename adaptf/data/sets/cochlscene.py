"""CochlScene (Jeong and Park, 2022; Zenodo record 7080122): ten-second files by list and scene."""

from pathlib import Path

import pandas as pd

from adaptf.data.clips import TEST, TRAIN, UNKNOWN, VALIDATION
from adaptf.data.decode import AUDIO_SUFFIXES
from adaptf.data.folders import files_below

_SPLITS = {"Train": TRAIN, "Val": VALIDATION, "Test": TEST}
_FILES = 76_115
"""That were published."""
_FILE = r"^(?P<filename>(?P<split>[^/]+)/(?P<scene>[^/]+)/(?:(?P<location>[^/]*)_)?[^/_]*)$"
"""As in Train/Bus/Bus_user0009_14897252_005.wav: the scene, who recorded it, the recording, its part."""


def is_cochlscene(root: Path) -> bool:
    """Whether a folder holds one for each of its lists."""
    return all((root / name).is_dir() for name in _SPLITS)


def read_cochlscene(root: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Its files by its own lists, and how many of the published ones they are.

    A location is a recording, of which there are several files. Which phones recorded them is not known.
    Files that lie elsewhere are left alone.
    """
    names = pd.Series(files_below(root, suffixes=AUDIO_SUFFIXES), dtype=object)
    table = names.str.extract(_FILE).fillna({"location": ""})
    table = table.assign(split=table["split"].map(_SPLITS)).dropna().reset_index(drop=True)
    told = f"CochlScene by its own lists: {len(table):,} of its {_FILES:,} files"
    return table.assign(device=UNKNOWN, city=""), (told,)
