"""Files of the project that have to agree, what may import what, and that loading runs no foreign code."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mlflow.projects import _project_spec

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "adaptf"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in PACKAGE.rglob("*.py")
}
LIBRARY = ("audio", "data", "models", "training", "compression", "evaluation")


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(lines: list[str]) -> dict[str, str]:
    """Package -> version of lines such as `name[extra]==1.2  # why`."""
    pairs = (line.partition("#")[0].split(";")[0].strip().split("==") for line in lines if "==" in line.partition("#")[0])
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
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def reached_from(module: str) -> set[str]:
    """Modules of adaptf that a module imports, directly or by another."""
    reached, waiting = set(), [module]
    while waiting:
        current = waiting.pop()
        reached.add(current)
        waiting += [name for name in imports_of(MODULES[current]) if name in MODULES and name not in reached]
    return reached


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


@pytest.mark.parametrize("backwards", [False, True])
def test_mlflow_finds_the_file_in_whatever_order_the_folder_is_listed(backwards: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(os.listdir(ROOT), reverse=backwards)
    assert [name for name in names if name.lower() == "mlproject"] == ["MLproject"]
    monkeypatch.setattr(_project_spec.os, "listdir", lambda folder: names)
    assert _project_spec._find_mlproject(str(ROOT)) == str(ROOT / "MLproject")
    assert (ROOT / "MLproject").is_file()
    assert "main" in _project_spec.load_project(str(ROOT))._entry_points


@pytest.mark.parametrize("folder", LIBRARY)
def test_the_library_knows_neither_mlflow_nor_the_command_line(folder: str) -> None:
    forbidden = ("mlflow", "jsonargparse", "adaptf.mlproject", "adaptf.tracking")
    for path in (PACKAGE / folder).rglob("*.py"):
        assert {name for name in imports_of(path) if within(name, forbidden)} == set(), path


def test_audio_knows_nothing_of_the_other_folders() -> None:
    allowed = ("adaptf.audio", "adaptf.errors")
    for path in (PACKAGE / "audio").rglob("*.py"):
        own = {name for name in imports_of(path) if within(name, ("adaptf",)) and name != "adaptf"}
        assert {name for name in own if not within(name, allowed)} == set(), path


@pytest.mark.parametrize("module", sorted(m for m in MODULES if re.search(r"^adaptf\.tracking\.(router\w*|requests)$", m)))
def test_serving_needs_nothing_of_training_or_the_command_line(module: str) -> None:
    assert {name for name in reached_from(module) if within(name, ("adaptf.training", "adaptf.mlproject"))} == set()


def test_checkpoints_are_loaded_without_running_their_code() -> None:
    loads = [(path, call) for path in MODULES.values() for function, call in calls(path) if function == "torch.load"]
    assert loads
    for path, call in loads:
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert given.get("weights_only") == "True", path


def test_nothing_unpickles() -> None:
    forbidden = re.compile(r"^(\w*pickle|dill|joblib|shelve|marshal)\.(load|loads|open|Unpickler)$|^(pd|pandas)\.read_pickle$")
    for path in MODULES.values():
        assert [function for function, _ in calls(path) if forbidden.match(function)] == [], path
        assert not any(re.fullmatch(r"\w*pickle\.(load|loads|Unpickler)", name) for name in imports_of(path)), path
        for function, call in calls(path):
            if function == "np.load":
                given = {word.arg: ast.unparse(word.value) for word in call.keywords}
                assert given.get("allow_pickle", "False") == "False", path


def test_importing_all_modules_prints_nothing_and_starts_nothing(tmp_path: Path) -> None:
    lines = [f"import {module}" for module in sorted(MODULES)]
    lines += ["import mlflow", "assert mlflow.active_run() is None", "assert not mlflow.is_tracking_uri_set()"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
