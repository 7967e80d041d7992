"""Cutting a part out of the training clips by location:
clips of one place sound alike, so a place has one side only.

A scene with too few places has its files cut instead:
scores come out too good then, which whoever reads them has to know.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from adaptf.data.clips import TRAIN

_NOTHING_LACKING = (0, 0, 0, 0)
"""Scenes without training clips, scenes without any in `to`, and other groups without: the former weigh more
than all of the latter, as nothing can be learnt without clips,
and a group of a single location stays in training."""
_LEAST = 1e-9
"""Of a change: less is rounding."""

_ALL, _SCENE, _DEVICE, _BOTH = range(4)
_Group = tuple[int, str, str]
"""What should have its share on both sides:
all clips, those of a scene, of a device, of a scene by a device."""


def cut_by_location(table: pd.DataFrame, *, share: float, to: str, seed: int) -> pd.DataFrame:
    """A copy in which whole locations, about `share` of the training clips, carry the split `to`.

    They are chosen so that each scene, each device, and each scene by a device has clips on both sides, and
    about that share of them in `to`. Locations are taken in an order that depends on the seed and their names
    alone, each where it brings the shares nearer; then the one or two whose move lowers most what is lacking;
    then again what brings the shares nearer, until nothing does. So new clips may move others, as those that
    are cut out depend on each other. A scene of two locations or more is on both sides, where scenes that
    share locations leave it the choice; one of a single location keeps it.
    Raises ValueError where the share is not in 0 .. 1.
    """
    return _cut(table, "location", share=share, to=to, seed=seed)


def cut_by_file(table: pd.DataFrame, *, share: float, to: str, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """As `cut_by_location`, but whole files of the scenes that have no clips in `to` yet;
    also the names of these scenes.

    A scene of one file keeps it.
    """
    there = table.loc[table["split"] == to, "scene"]
    lacking = ~table["scene"].isin(there)
    cut = table.assign(
        split=_cut(table[lacking], "filename", share=share, to=to, seed=seed)["split"].reindex(table.index)
    )
    cut["split"] = cut["split"].where(lacking, table["split"])
    return cut, sorted(set(cut.loc[cut["split"] == to, "scene"]) - set(there))


def _cut(table: pd.DataFrame, column: str, *, share: float, to: str, seed: int) -> pd.DataFrame:
    if not 0 <= share < 1:
        raise ValueError(f"the share of clips to cut out should be from 0 to below 1, got {share}")
    table = table.copy()
    if share == 0:
        return table
    train = table["split"] == TRAIN
    chosen = _choose(_groups(table[train], column), share, seed)
    table.loc[train & table[column].isin(chosen), "split"] = to
    return table


def _groups(clips: pd.DataFrame, column: str) -> dict[str, Counter[_Group]]:
    """Location -> group -> clips."""
    found: dict[str, Counter[_Group]] = {}
    counted = clips.groupby([column, "scene", "device"]).size().reset_index(name="clips")
    for location, scene, device, count in counted.itertuples(index=False):
        groups: list[_Group] = [
            (_ALL, "", ""),
            (_SCENE, scene, ""),
            (_DEVICE, "", device),
            (_BOTH, scene, device),
        ]
        found.setdefault(location, Counter()).update(dict.fromkeys(groups, int(count)))
    return found


def _choose(clips: Mapping[str, Counter[_Group]], share: float, seed: int) -> set[str]:
    """Locations to cut out, from location -> group -> clips."""
    order = sorted(clips, key=lambda location: (zlib.crc32(f"{seed}/{location}".encode()), location))
    members: dict[_Group, list[str]] = {}
    total: Counter[_Group] = Counter()
    for location in order:
        total.update(clips[location])
        for group in clips[location]:
            members.setdefault(group, []).append(location)
    side = _Side(clips, share, total, members)
    while _bring_nearer(side, order) or _fill(side):
        pass
    return side.chosen


def _bring_nearer(side: "_Side", order: list[str]) -> bool:
    """Moves locations, one after the other,
    whose move brings the shares nearer and lets no more be lacking."""
    moved = False
    for location in order:
        lacking, away = side.change([location])
        if lacking <= _NOTHING_LACKING and away < -_LEAST:
            side.move([location])
            moved = True
    return moved


def _fill(side: "_Side") -> bool:
    """For each group that is lacking on a side moves a location, or where no one alone does two,
    so that less is lacking."""
    moved = [_fill_group(side, group, ([one] for one in side.members[group])) for group in side.lacking()]
    if not any(moved):
        moved = [_fill_group(side, group, side.pairs(group)) for group in side.lacking()]
    return any(moved)


def _fill_group(side: "_Side", group: _Group, moves: Iterable[list[str]]) -> bool:
    """Makes the move that lowers most what is lacking and leaves the shares nearest,
    if the group still lacks and one does."""
    best = min(moves, key=side.change, default=[]) if side.lacks(group) else []
    if side.change(best)[0] >= _NOTHING_LACKING:
        return False
    side.move(best)
    return True


@dataclass
class _Side:
    """The locations that are cut out, and what moving some to the other side would change."""

    clips: Mapping[str, Counter[_Group]]
    share: float
    total: Mapping[_Group, int]
    members: Mapping[_Group, Sequence[str]]
    """The locations of each group, in their order."""
    taken: Counter[_Group] = field(default_factory=Counter)
    chosen: set[str] = field(default_factory=set)

    def change(self, locations: Sequence[str]) -> tuple[tuple[int, ...], float]:
        """How much more would be lacking (as _NOTHING_LACKING),
        and how much further the shares would be away."""
        lacking, away = list(_NOTHING_LACKING), 0.0
        for group, count in self._moved(locations).items():
            before, after = self.taken[group], self.taken[group] + count
            place = 0 if group[0] == _SCENE else 2
            lacking[place] += (after == self.total[group]) - (before == self.total[group])
            lacking[place + 1] += (after == 0) - (before == 0)
            away += self._away(group, after) - self._away(group, before)
        return tuple(lacking), away

    def move(self, locations: Sequence[str]) -> None:
        """To the other side."""
        self.taken.update(self._moved(locations))
        self.chosen ^= set(locations)

    def lacking(self) -> list[_Group]:
        """Groups that are lacking on a side and need not be, with those of all devices first."""
        return sorted(group for group in self.members if self.lacks(group))

    def lacks(self, group: _Group) -> bool:
        """Whether it is on one side alone, and not for training with its single location."""
        return self.taken[group] == self.total[group] or (
            self.taken[group] == 0 and len(self.members[group]) > 1
        )

    def pairs(self, group: _Group) -> Iterator[list[str]]:
        """A location of the group, and one of those that make up for what its move would let be lacking."""
        for location in self.members[group]:
            moved = self._moved([location])
            emptied = [one for one, count in moved.items() if self.taken[one] + count in (0, self.total[one])]
            for other in dict.fromkeys(
                other for one in emptied if one != group for other in self.members[one]
            ):
                if other != location:
                    yield [location, other]

    def _moved(self, locations: Sequence[str]) -> dict[_Group, int]:
        moved: dict[_Group, int] = {}
        for location in locations:
            sign = -1 if location in self.chosen else 1
            for group, count in self.clips[location].items():
                moved[group] = moved.get(group, 0) + sign * count
        return moved

    def _away(self, group: _Group, taken: int) -> float:
        """Pearson's chi-squared of the group: a clip weighs more where there are few."""
        wanted = self.share * self.total[group]
        return (taken - wanted) ** 2 / wanted
