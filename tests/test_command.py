"""The command `adaptf`: which stages it tells of, that it is fast to do so, and that it runs them."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from adaptf.__main__ import main

ROOT = Path(__file__).parents[1]
ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]


def test_the_command_is_this_module() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"] == {
        "adaptf": "adaptf.__main__:main"
    }


@pytest.mark.parametrize("given", [[], ["--help"], ["-h"]])
def test_help_has_a_line_for_every_entry_point(given, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["adaptf", *given])
    main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert [name for name, *_ in lines] == sorted(ENTRY_POINTS)
    assert all(len(words) > 2 for _, *words in lines)


def test_help_tells_what_the_stage_says_of_itself(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["adaptf"])
    main()
    out = capsys.readouterr().out
    assert "A scene for each file of a table, by the router" in out
    assert "Prints the runs that a model came from, as a tree\n" in out


def test_help_waits_for_no_library() -> None:
    code = "import sys; from adaptf.__main__ import main; main(); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "'adaptf'" in done.stdout
    assert not [name for name in ("torch", "mlflow", "numpy", "jsonargparse") if f"'{name}'" in done.stdout]


@pytest.mark.parametrize(
    ("given", "told"),
    [("finetun", "there is no stage 'finetun', did you mean 'finetune'?"), ("xyz", "no stage 'xyz': see")],
)
def test_an_unknown_stage_is_told_with_the_nearest(given, told, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["adaptf", given])
    with pytest.raises(SystemExit) as exit:
        main()
    assert told in str(exit.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # by other tests
def test_a_stage_gets_the_rest_of_the_command_line(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["adaptf", "rollback", "--help"])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 0
    assert "--device" in capsys.readouterr().out
