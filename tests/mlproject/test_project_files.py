"""Files of the project that have to agree, and that loading runs no foreign code."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "adaptf"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(lines: list[str]) -> dict[str, str]:
    """Package -> version of lines such as `name[extra]==1.2  # why`."""
    pairs = (
        line.partition("#")[0].split(";")[0].strip().split("==")
        for line in lines
        if "==" in line.partition("#")[0]
    )
    return {normalised(name.partition("[")[0]): version for name, version in pairs}


def conda() -> tuple[dict[str, str], list[str]]:
    """Packages of pip with their versions, and those of conda."""
    listed = yaml.safe_load((ROOT / "conda.yaml").read_text())["dependencies"]
    (by_pip,) = (entry["pip"] for entry in listed if isinstance(entry, dict))
    return pinned(by_pip), [entry for entry in listed if isinstance(entry, str)]


def project() -> dict[str, object]:
    content: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return content


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere; `from a import b` gives a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a file with its function as text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_conda_has_the_versions_of_the_constraints() -> None:
    versions = pinned((ROOT / "constraints.txt").read_text().splitlines())
    by_pip, _ = conda()
    assert by_pip == {name: versions.get(name) for name in by_pip}


def test_conda_has_every_package_that_the_project_depends_on() -> None:
    needed = {normalised(re.split(r"[\[><=!~ ;]", str(line))[0]) for line in project()["dependencies"]}  # type: ignore[attr-defined]
    by_pip, _ = conda()
    assert needed - by_pip.keys() == set()


def test_python_is_3_11_at_least() -> None:
    assert project()["requires-python"] == ">=3.11"
    assert "python=3.11" in conda()[1]


def test_mlproject_uses_the_conda_file() -> None:
    content = yaml.safe_load((ROOT / "MLproject").read_text())
    assert content["conda_env"] == "conda.yaml"
    assert not {"python_env", "docker_env"} & content.keys()  # MLflow refuses two


def test_no_other_file_can_be_taken_for_the_project_file() -> None:
    """MLflow takes the first file or folder that is called so, in capitals or not,
    in the order of the listing."""
    assert [path.name for path in ROOT.iterdir() if path.name.lower() == "mlproject"] == ["MLproject"]
    assert (ROOT / "MLproject").is_file()


def test_no_room_holds_more_than_a_fifth_of_the_lines() -> None:
    lines: Counter[Path] = Counter()
    for path in MODULES.values():
        lines[path.parent] += len(path.read_text().splitlines())
    assert {folder: count for folder, count in lines.items() if 5 * count > lines.total()} == {}


def test_checkpoints_are_loaded_without_running_their_code() -> None:
    loads = [
        (path, call)
        for path in MODULES.values()
        for function, call in calls(path)
        if function == "torch.load"
    ]
    assert loads
    for path, call in loads:
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert given.get("weights_only") == "True", path


@pytest.mark.slow
def test_nothing_unpickles() -> None:
    forbidden = re.compile(
        r"^(\w*pickle|dill|joblib|shelve|marshal)\.(load|loads|open|Unpickler)$|^(pd|pandas)\.read_pickle$"
    )
    for path in MODULES.values():
        assert [function for function, _ in calls(path) if forbidden.match(function)] == [], path
        assert not any(
            re.fullmatch(r"\w*pickle\.(load|loads|Unpickler)", name) for name in imports_of(path)
        ), path
        for function, call in calls(path):
            if function == "np.load":
                given = {word.arg: ast.unparse(word.value) for word in call.keywords}
                assert given.get("allow_pickle", "False") == "False", path


@pytest.mark.slow
def test_importing_all_modules_prints_nothing_and_starts_nothing(tmp_path: Path) -> None:
    lines = [f"import {module}" for module in sorted(MODULES)]
    lines += [
        "import mlflow",
        "assert mlflow.active_run() is None",
        "assert not mlflow.is_tracking_uri_set()",
    ]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")
    }
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
