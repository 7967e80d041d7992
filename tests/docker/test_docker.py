"""The images and the compose file, as far as they can be checked without a Docker engine."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker"
COMPOSE = FOLDER / "compose.yaml"
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)([^}]*)\}")
"""Its name, and what follows it there."""


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def example_values() -> dict[str, str]:
    lines = (FOLDER / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def finds_nothing(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_file_has_the_shape_of_the_compose_specification() -> None:
    finds_nothing(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    )


@pytest.mark.parametrize("dockerfile", sorted(FOLDER.glob("*.Dockerfile")), ids=lambda path: path.name)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    finds_nothing([hadolint, "--no-color", str(dockerfile)])


def test_build_context_is_closed_but_for_files_that_are_there() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    let_through = [line[1:] for line in lines if line.startswith("!")]
    assert "docker" not in let_through
    assert all((ROOT / name).exists() for name in let_through)


def test_router_image_holds_all_that_the_router_imports() -> None:
    graph = grimp.build_graph("adaptf", include_external_packages=True, cache_dir=None)
    imported = {
        name
        for name in graph.find_upstream_modules("adaptf.mlproject.serve")
        if not name.startswith("adaptf")
    }
    of_mlflow = {
        re.split(r"[^\w-]", name)[0]
        for package in ("mlflow", "mlflow-skinny", "fastapi")
        for name in requires(package) or []
        if "extra ==" not in name
    }
    instructions = re.sub(r"^#.*$", "", (FOLDER / "serve.Dockerfile").read_text(), flags=re.MULTILINE)
    installed = set(re.findall(r"[\w-]+", instructions))
    assert {"torch", "openvino", "onnx", "onnxruntime"} <= imported
    assert {
        name.replace("_", "-") for name in imported - set(sys.stdlib_module_names)
    } <= installed | of_mlflow


def test_foreign_images_are_pinned() -> None:
    images = [service["image"] for service in services().values() if "build" not in service]
    assert images
    assert all(re.fullmatch(r"[\w./-]+:\d[\w.-]*", image) for image in images), images


def test_ports_are_published_on_the_loopback_only() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert ports
    assert all(isinstance(port, str) and port.startswith("127.0.0.1:") for port in ports), ports


def test_example_environment_names_every_variable_and_no_other() -> None:
    assert example_values().keys() == {name for name, _ in VARIABLE.findall(COMPOSE.read_text())}


def test_secrets_have_no_default() -> None:
    secrets = {
        found for found in VARIABLE.findall(COMPOSE.read_text()) if re.search("PASSWORD|KEY|SECRET", found[0])
    }
    assert {rest for _, rest in secrets} == {":?set it in docker/.env"}
    assert all(example_values()[name] == "" for name, _ in secrets)
