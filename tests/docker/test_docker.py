"""The images and the compose file, checked without a Docker engine."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker" / "compose.yaml"
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)([^}]*)\}")

each_dockerfile = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(instruction, its text on one line) in the order of the file."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(name.upper(), text) for name, text in pairs]


def arguments(dockerfile: Path, wanted: str) -> list[str]:
    return [text for name, text in instructions(dockerfile) if name == wanted]


def pip_installs(dockerfile: Path) -> list[list[str]]:
    """The words after each `pip install`."""
    commands = [command for run in arguments(dockerfile, "RUN") for command in run.split("&&")]
    return [command.split()[2:] for command in commands if command.split()[:2] == ["pip", "install"]]


def installed_packages(dockerfile: Path) -> set[str]:
    words = [word for install in pip_installs(dockerfile) for word in install]
    return {word for word in words if word[0].isalpha()}


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return content


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def compose_variables() -> dict[str, set[str]]:
    """The name of each ${VARIABLE} of the compose file -> what follows its name there."""
    variables: dict[str, set[str]] = {}
    for name, rest in VARIABLE.findall(COMPOSE.read_text()):
        variables.setdefault(name, set()).add(rest)
    return variables


def example_values() -> dict[str, str]:
    lines = (ROOT / "docker" / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def pinned_packages() -> set[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {line.split("==")[0].strip().lower().replace("_", "-") for line in lines if "==" in line}


def project_modules(name: str) -> list[Path]:
    """The files of this project that importing the dotted name runs, or none if it is a name inside a module."""
    path = ROOT.joinpath(*name.split("."))
    return [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]


def imported_names(file: Path) -> set[str]:
    """Dotted names that the file imports, also inside functions; `from a import b` gives a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return names


def third_party_imports(start: list[Path]) -> set[str]:
    """Packages, by their names in an index, that the files import, directly or through other files of this project."""
    to_read, seen, packages = list(start), set(start), set[str]()
    while to_read:
        for name in imported_names(to_read.pop()):
            if name.partition(".")[0] == "adaptf":
                new = set(project_modules(name)) - seen
                to_read += new
                seen |= new
            else:
                packages.add(name.partition(".")[0])
    return {package.replace("_", "-") for package in packages - set(sys.stdlib_module_names)}


def test_compose_file_has_the_shape_of_the_compose_specification() -> None:
    if importlib.util.find_spec("check_jsonschema") is None:
        pytest.skip("check-jsonschema is not installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@each_dockerfile
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    result = subprocess.run([hadolint, "--no-color", str(dockerfile)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@each_dockerfile
def test_base_images_name_the_python_and_the_debian_release(dockerfile: Path) -> None:
    sources = [text.split(" AS ") for text in arguments(dockerfile, "FROM")]
    stages = {name for _, *names in sources for name in names}
    bases = {image for image, *_ in sources} - stages
    assert all(re.fullmatch(r"python:3\.\d+-slim-[a-z]+", base) for base in bases), bases


@each_dockerfile
def test_images_do_not_run_as_root(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    stages = [stage for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:] if " AS base\n" not in stage]
    assert stages
    assert all(re.search(r"^USER [1-9]\d*$", stage, flags=re.MULTILINE) for stage in stages)


@each_dockerfile
def test_copied_files_are_in_the_repository_and_let_through(dockerfile: Path) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for text in arguments(dockerfile, "COPY") for source in text.split()[:-1]}
    assert copied <= allowed
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert arguments(dockerfile, "ADD") == []


def test_build_context_is_closed_but_for_named_files() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert not any(line.startswith("!docker") for line in lines)


@each_dockerfile
def test_every_installed_package_has_its_version_in_the_constraints(dockerfile: Path) -> None:
    installs = pip_installs(dockerfile)
    assert installs
    assert all({"--constraint=constraints.txt", "--no-deps"} & set(install) for install in installs), installs
    assert installed_packages(dockerfile) - pinned_packages() == set()


def test_router_image_holds_all_that_the_router_imports() -> None:
    start = sorted((ROOT / "adaptf" / "tracking").glob("router*.py"))
    if not start:
        pytest.skip("adaptf/tracking has no router")
    with_mlflow = {re.split(r"[^\w-]", name)[0] for name in requires("mlflow") or [] if "extra ==" not in name}
    assert third_party_imports(start) <= installed_packages(ROOT / "docker" / "serve.Dockerfile") | with_mlflow


def test_foreign_images_are_pinned() -> None:
    images = [service["image"] for service in services().values() if "build" not in service]
    assert images
    assert all(re.fullmatch(r"[\w./-]+:\d[\w.-]*", image) for image in images), images


def test_built_services_name_a_dockerfile_and_a_target_that_exist() -> None:
    for build in [service["build"] for service in services().values() if "build" in service]:
        dockerfile = (COMPOSE.parent / build["context"] / build["dockerfile"]).resolve()
        assert dockerfile in DOCKERFILES
        assert "target" not in build or f" AS {build['target']}\n" in dockerfile.read_text()


def test_services_name_only_services_networks_and_volumes_that_exist() -> None:
    content = compose()
    for name, service in services().items():
        named = [volume.split(":")[0] for volume in service.get("volumes", []) if isinstance(volume, str)]
        assert set(service.get("depends_on", {})) <= set(services()), name
        assert set(service["networks"]) <= set(content["networks"]), name
        assert set(named) <= set(content["volumes"]), name


def test_ports_are_published_on_the_loopback_only() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert ports
    assert all(isinstance(port, str) and port.startswith("127.0.0.1:") for port in ports), ports


def test_example_environment_names_every_variable_and_no_other() -> None:
    assert set(example_values()) == set(compose_variables())


def test_secrets_have_no_default() -> None:
    secrets = {name: rest for name, rest in compose_variables().items() if re.search("PASSWORD|KEY|SECRET", name)}
    assert secrets
    assert all(rest == {":?set it in docker/.env"} for rest in secrets.values()), secrets
    assert all(example_values()[name] == "" for name in secrets)
