"""README tells the truth about entry points and commands."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_stage_that_is_named_is_an_entry_point():
    entry_points = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    assert set(re.findall(r"mlflow run \. -e (\w+)", README)) <= set(entry_points)
    (row,) = re.findall(r"^\| `-e distill` \| (.+) \|$", README, flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == set(entry_points)


def test_every_make_target_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z]+)\b", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
