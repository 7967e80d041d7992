"""Cutting a part out of the training clips by location: clips of one place sound alike, so a place has one side only."""

import zlib
from collections import Counter

import pandas as pd


def cut_by_location(table: pd.DataFrame, *, share: float, to: str, seed: int) -> pd.DataFrame:
    """A copy in which whole locations, about `share` of each scene's training clips, carry the split `to`.

    Locations are taken in an order that depends on the seed and their names alone, so that adding clips moves no other.
    Every scene with two locations or more gives at least one and keeps at least one; a scene with one keeps it.
    Raises ValueError where the share is not in 0 .. 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share of clips to cut out should be from 0 to below 1, got {share}")
    table = table.copy()
    if share == 0:
        return table
    train = table[table["split"] == "train"]
    chosen: set[str] = set()
    for _, clips in train.groupby("scene", sort=True):
        chosen |= _choose_locations(dict(Counter(clips["location"])), share=share, seed=seed)
    table.loc[(table["split"] == "train") & table["location"].isin(chosen), "split"] = to
    return table


def _choose_locations(clips_per_location: dict[str, int], *, share: float, seed: int) -> set[str]:
    """Locations in their drawn order, as long as each brings the sum nearer to the share."""
    wanted = share * sum(clips_per_location.values())
    order = sorted(clips_per_location, key=lambda location: (zlib.crc32(f"{seed}/{location}".encode()), location))
    chosen: set[str] = set()
    taken = 0
    for location in order[:-1]:
        count = clips_per_location[location]
        if abs(taken + count - wanted) < abs(taken - wanted):
            chosen.add(location)
            taken += count
    if not chosen and len(order) > 1:
        chosen.add(min(order, key=lambda location: clips_per_location[location]))
    return chosen
