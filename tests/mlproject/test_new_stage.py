"""A stage is one new file and its entry point:
that of docs/architecture.md, added to a copy of the project."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import yaml

from adaptf.pipeline.lineage import as_text, tree

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "architecture.md").read_text()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy with the stage."""
    (code,) = re.findall(r'```python\n("""Stage `count`.*?)```', DOCS, flags=re.DOTALL)
    shutil.copytree(ROOT / "adaptf", tmp_path / "adaptf", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "adaptf" / "mlproject" / "count.py").write_text(code)
    declared = yaml.safe_load((ROOT / "MLproject").read_text())
    parameters = {"preset": {"type": "string", "default": "default"}}
    command = "python -m adaptf.mlproject.count --preset {preset}"
    declared["entry_points"]["count"] = {"parameters": parameters, "command": command}
    (tmp_path / "MLproject").write_text(yaml.safe_dump(declared))
    shutil.copy(ROOT / "conda.yaml", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_stage_of_ten_lines_is_run_named_and_traced_as_all_others(
    project: Path, prepared: str, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "mlflow", "run", str(project), "-e", "count", "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        command, env={**environment, "PYTHONPATH": str(project), "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run_id,) = re.findall(r"count finished: run (\w+)", done.stdout)
    run = mlflow.get_run(run_id)
    assert (run.info.run_name, run.data.metrics["clips"]) == ("count", 36)
    assert run.data.tags["adaptf.upstream.prepare_run"] == prepared
    assert prepared in as_text("count", tree(run_id))
