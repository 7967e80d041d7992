"""Writes `MLproject` of this folder: that of the top folder, with `docker_env` in the place of `conda_env`,
as MLflow takes one environment per project.

    python docker/project/generate.py
"""

from pathlib import Path

HERE = Path(__file__).parent
CONDA = "conda_env: conda.yaml\n"
DOCKER = """\
# Written by generate.py, from the file of this name in the top folder.
docker_env:
  image: adaptf-train
  # What an interrupted stage goes on from, and the decoded waveforms.
  volumes: ["adaptf-cache:/home/adaptf/project/cache"]
  environment: [[MLFLOW_ALLOW_PICKLE_DESERIALIZATION, "false"]]
"""


def text() -> str:
    """What the file should be."""
    project = (HERE.parents[1] / "MLproject").read_text()
    if CONDA not in project:
        raise ValueError(f"MLproject of the top folder does not say {CONDA.strip()!r}")
    return project.replace(CONDA, DOCKER)


if __name__ == "__main__":
    (HERE / "MLproject").write_text(text())
