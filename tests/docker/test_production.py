"""docs/production.md and what tries it, as far as that can be checked without an engine."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRIAL = ROOT / "docker" / "production" / "trial.py"
ENGINE = """\
#!/bin/sh
echo "$*" >> "$CALLS"
for image; do :; done
[ "$1" = pull ] || printf '%s\\n' other.example.org/name@sha256:4567 "${image%:*}@sha256:0123"
"""


def sections() -> dict[str, str]:
    """The commands of the page, by the heading under which they stand."""
    page = (ROOT / "docs" / "production.md").read_text()
    parts = [part.partition("\n") for part in page.split("\n## ")[1:]]
    return {name: "\n".join(re.findall(r"^    (.*)", text, re.MULTILINE)) for name, _, text in parts}


def test_the_trial_runs_all_commands_of_the_page_but_those_that_bring_the_engine_and_the_images() -> None:
    tried = set(re.findall(r"page\.(?:run|start)\(\"([^\"]+)\"\)", TRIAL.read_text()))
    with_commands = {name for name, commands in sections().items() if commands}
    assert tried == with_commands - {"The engine", "Images"}


def test_commands_of_the_page_are_shell_commands() -> None:
    for commands in sections().values():
        subprocess.run(["bash", "-n", "-c", commands], check=True)


def test_images_of_others_are_written_by_the_digests_that_the_engine_tells(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    environment = {
        **{"PATH": os.environ["PATH"], "CALLS": str(tmp_path / "calls")},
        **{"ENGINE": str(engine), "REGISTRY": "mirror.example.org"},
    }
    done = subprocess.run(
        [ROOT / "docker" / "digests.sh"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "PYTHON_IMAGE=mirror.example.org/library/python@sha256:0123",
        "POSTGRES_IMAGE=mirror.example.org/library/postgres@sha256:0123",
        "S3_IMAGE=mirror.example.org/chrislusf/seaweedfs@sha256:0123",
        "PROXY_IMAGE=mirror.example.org/library/nginx@sha256:0123",
        "PROMETHEUS_IMAGE=mirror.example.org/prom/prometheus@sha256:0123",
        "GRAFANA_IMAGE=mirror.example.org/grafana/grafana@sha256:0123",
    ]
    assert "pull --quiet mirror.example.org/library/postgres:17" in (tmp_path / "calls").read_text()


def test_default_base_of_the_images_is_the_one_that_compose_names() -> None:
    named = set(re.findall(r"PYTHON_IMAGE(?::-|=)([\w:.-]+)", (ROOT / "docker" / "compose.yaml").read_text()))
    for dockerfile in (ROOT / "docker").rglob("*.Dockerfile"):
        assert set(re.findall(r"ARG PYTHON_IMAGE=(.*)", dockerfile.read_text())) == named
