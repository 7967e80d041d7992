"""Cutting a part out of the training clips by location: clips of one place sound alike, so a place has one side only.

A scene with too few places has its files cut instead: scores come out too good then, which whoever reads them has to know.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import pandas as pd

from adaptf.data.clips import TRAIN


def cut_by_location(table: pd.DataFrame, *, share: float, to: str, seed: int) -> pd.DataFrame:
    """A copy in which whole locations, about `share` of each scene's training clips, carry the split `to`.

    Locations are taken in an order that depends on the seed and their names alone, so that adding clips moves no other.
    Every scene with two locations or more gives at least one and keeps at least one, where scenes that share locations leave
    it the choice; a scene with one keeps it. Raises ValueError where the share is not in 0 .. 1.
    """
    return _cut(table, "location", share=share, to=to, seed=seed)


def cut_by_file(table: pd.DataFrame, *, share: float, to: str, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """As `cut_by_location`, but whole files of the scenes that have no clips in `to` yet; also the names of these scenes.

    A scene of one file keeps it.
    """
    there = table.loc[table["split"] == to, "scene"]
    lacking = ~table["scene"].isin(there)
    cut = table.assign(split=_cut(table[lacking], "filename", share=share, to=to, seed=seed)["split"].reindex(table.index))
    cut["split"] = cut["split"].where(lacking, table["split"])
    return cut, sorted(set(cut.loc[cut["split"] == to, "scene"]) - set(there))


def _cut(table: pd.DataFrame, column: str, *, share: float, to: str, seed: int) -> pd.DataFrame:
    if not 0 <= share < 1:
        raise ValueError(f"the share of clips to cut out should be from 0 to below 1, got {share}")
    table = table.copy()
    if share == 0:
        return table
    train = table["split"] == TRAIN
    chosen = _choose({str(scene): Counter(clips[column]) for scene, clips in table[train].groupby("scene")}, share, seed)
    table.loc[train & table[column].isin(chosen), "split"] = to
    return table


def _choose(counts: Mapping[str, Mapping[str, int]], share: float, seed: int) -> set[str]:
    """Locations to cut out, from scene -> location -> clips."""
    chosen: set[str] = set()
    left = {scene: len(of_scene) for scene, of_scene in counts.items()}
    scenes_at: dict[str, list[str]] = {}
    for scene, of_scene in counts.items():
        for location in of_scene:
            scenes_at.setdefault(location, []).append(scene)

    def is_spare(location: str) -> bool:
        return location not in chosen and all(left[scene] > 1 for scene in scenes_at[location])

    for of_scene in counts.values():
        already = sum(count for location, count in of_scene.items() if location in chosen)
        for location in _choose_locations(of_scene, is_spare, share=share, seed=seed, already=already):
            chosen.add(location)
            for scene in scenes_at[location]:
                left[scene] -= 1
    return chosen


def _choose_locations(
    clips_per_location: Mapping[str, int], is_spare: Callable[[str], bool], *, share: float, seed: int, already: int
) -> Iterator[str]:
    """Locations in their drawn order, as long as each brings the sum nearer to the share; `already` counts chosen clips.

    Which are spare may change with each that is taken.
    """
    wanted = share * sum(clips_per_location.values())
    order = sorted(clips_per_location, key=lambda location: (zlib.crc32(f"{seed}/{location}".encode()), location))
    taken = already
    for location in filter(is_spare, order[:-1]):
        count = clips_per_location[location]
        if abs(taken + count - wanted) < abs(taken - wanted):
            taken += count
            yield location
    spare = list(filter(is_spare, order))
    if not taken and spare:
        yield min(spare, key=lambda location: clips_per_location[location])
