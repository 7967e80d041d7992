"""README tells the truth about files and entry points."""

import ast
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_module_has_its_line():
    listed = dict(re.findall(r"^\| `(adaptf/\S+\.py)` \| (.+) \|$", README, flags=re.MULTILINE))
    found = [path for path in (ROOT / "adaptf").rglob("*.py") if path.name != "__init__.py"]
    modules = {path.relative_to(ROOT).as_posix(): path for path in [ROOT / "adaptf/__init__.py", *found]}
    assert set(listed) == set(modules)
    for name, path in modules.items():
        assert listed[name] == (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0], name


def test_every_stage_that_is_named_is_an_entry_point():
    entry_points = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    assert set(re.findall(r"mlflow run \. -e (\w+)", README)) <= set(entry_points)
    (row,) = re.findall(r"^\| `-e distill` \| (.+) \|$", README, flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == set(entry_points)


def test_every_make_target_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z]+)\b", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
