"""The table of who says what, in docs/training.md, against the defaults and the presets."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from adaptf.mlproject.finetune import of_unknown
from adaptf.mlproject.main import MainConfig
from adaptf.pipeline.command_line import flatten, parse, read_preset
from adaptf.pipeline.config import settings
from adaptf.pipeline.schedule import unended_cycle

DOCS = (Path(__file__).parent.parent / "docs" / "training.md").read_text()
ROW = re.compile(
    r"^\| [^|]*`(?P<field>[\w.]+)` \| (?P<report>[^|]+) \| [^|]+ \| (?P<authors>[^|]+) \| (?P<we>[^|]+) \|$",
    re.MULTILINE,
)
ROWS = [row.groupdict() for row in ROW.finditer(DOCS)]
DEFAULTS = settings(MainConfig())
STAGES = ("pretrain", "train", "teacher", "teacher.frozen", "distill", "finetune")


def value_in(cell: str) -> Any:
    """What a cell begins with, as YAML reads it."""
    value = yaml.safe_load(cell.split()[0].rstrip(",:†"))
    return float(value) if re.fullmatch(r"[\d.]+e-?\d+", str(value)) else value


def kind_of(value: Any) -> type:
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)


def test_the_table_has_every_setting_of_optimizers_and_every_value_of_the_presets() -> None:
    rows = {row["field"] for row in ROWS}
    assert len(rows) == len(ROWS)
    optimizers = {
        name
        for name, value in DEFAULTS.items()
        if name.rpartition(".optim.")[0] in STAGES
        and isinstance(value, (int, float))
        and ".average" not in name
    }
    without = {"teacher.frozen.optim.restart_factor"}  # without restarts
    assert optimizers - without <= rows
    assert {name for preset in ("report", "authors") for name in flatten(read_preset(preset))} <= rows


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["field"])
def test_what_we_do_is_the_default(row: dict[str, str]) -> None:
    default, told = DEFAULTS[row["field"]], value_in(row["we"])
    assert told == default if kind_of(told) is kind_of(default) else str(told) == str(default)


@pytest.mark.parametrize("preset", ["report", "authors"])
def test_what_others_say_is_in_their_presets(preset: str) -> None:
    given = settings(parse(MainConfig, stage="main", arguments=["--preset", preset]))
    told = {row["field"]: value_in(row[preset]) for row in ROWS if row[preset].strip() != "-"}
    compared = {field: value for field, value in told.items() if kind_of(value) is kind_of(given[field])}
    assert len(compared) > 8
    assert compared == {field: given[field] for field in compared}


def test_the_best_holds_nothing_back_and_ends_each_training_in_one_cycle() -> None:
    config = parse(MainConfig, stage="main", arguments=["--preset", "best"])
    stages = [config.train, config.distill, config.finetune, of_unknown(config.finetune)]
    assert all(stage.refit and unended_cycle(stage.optim) == "" for stage in stages)
    assert all(stage.optim.restart_epochs == stage.optim.max_epochs for stage in stages)
