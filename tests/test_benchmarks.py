"""The table of benchmarks/README.md says what was kept, and every benchmark is told of."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
README = (FOLDER / "README.md").read_text()
SCRIPTS = {path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text()}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import kept

    return kept


@pytest.fixture
def short(kept: ModuleType) -> ModuleType:
    import short

    return short


def keep(kept: ModuleType, monkeypatch: pytest.MonkeyPatch, file: Path, command: str, *ratios: float) -> None:
    """Of a run of the command that measured one row per ratio."""
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{command.split()[0]}", *command.split()[1:], "--keep"])
    kept.keep([kept.Pair(f"row {place}", ratio, 1.0) for place, ratio in enumerate(ratios)], file)


def test_the_readme_has_the_table_of_what_was_kept(kept: ModuleType) -> None:
    rows = kept.read()
    assert rows
    assert kept.table(rows) in README, "python benchmarks/kept.py writes it"


def test_rows_that_miss_their_goal_are_told_of(kept: ModuleType) -> None:
    told = README.partition("## Goals that are missed")[2].partition("\n## ")[0]
    for row in kept.read():
        if row.pair.misses_its_goal:
            assert f"**{row.pair.what}**" in told


def test_scripts_that_are_named_are_there_and_none_is_left_out(kept: ModuleType, short: ModuleType) -> None:
    of_make_bench = {command.split()[0] for command in short.SHORT}
    named = set(re.findall(r"\b(\w+\.py)\b", README)) | of_make_bench
    assert named == SCRIPTS


def test_a_kept_run_replaces_all_rows_of_its_script_and_no_others(
    kept: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "kept.json"
    keep(kept, monkeypatch, file, "b.py --clips 5", 1.0, 2.0)
    keep(kept, monkeypatch, file, "a.py", 3.0)
    keep(kept, monkeypatch, file, "b.py --clips 9", 4.0)
    assert [(row.command, row.pair.ratio) for row in kept.read(file)] == [("a.py", 3), ("b.py --clips 9", 4)]
    assert len(file.read_text().splitlines()) == 2 + len(json.loads(file.read_text()))


def test_make_bench_tells_what_fell(
    kept: ModuleType, short: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep(kept, monkeypatch, tmp_path / "before", "a.py", 4.0, 4.0)
    keep(kept, monkeypatch, tmp_path / "now", "a.py", 3.9, 2.0, 9.0)
    head, *fell = short.falls(kept.read(tmp_path / "now"), kept.read(tmp_path / "before"))
    assert "2 of 3 rows were kept before; 1 fell" in head
    assert fell == ["- a.py, row 1: 4.0x before, 2.0x now"]


@pytest.mark.parametrize(
    ("plain_ms", "our_ms", "is_missed"), [(80.0, 10.0, False), (70.0, 10.0, True), (200.0, 21.0, True)]
)
def test_a_goal_is_missed_by_ratio_or_by_time(
    kept: ModuleType, plain_ms: float, our_ms: float, is_missed: bool
) -> None:
    pair = kept.Pair("a", plain_ms, our_ms, least_ratio=8.0, most_ms=20.0)
    assert pair.misses_its_goal == is_missed
    assert ("missed" in kept.goal(pair)) == is_missed
