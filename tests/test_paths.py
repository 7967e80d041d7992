"""Paths count from where the user stands, wherever `mlflow run` starts the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adaptf import paths
from adaptf.errors import UserError
from adaptf.paths import user_file_or_name, user_folder, user_path


@pytest.fixture
def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the user stands; the home folder is another one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_a_tilde_is_the_home_folder(standing: Path) -> None:
    assert (
        user_path("~/c", what="data.cache")
        == user_path(" ~/c/ ", what="data.cache")
        == str(standing.parent / "home/c")
    )
    assert user_path("~", what="data.cache") == str(standing.parent / "home")


def test_a_relative_path_counts_from_where_the_user_stands(standing: Path) -> None:
    assert (
        user_path("c", what="data.cache") == user_path("./x/../c", what="data.cache") == str(standing / "c")
    )
    assert user_path("/c", what="data.cache") == "/c"


def test_a_folder_whose_name_looks_the_same_is_found(standing: Path) -> None:
    (standing / "Gera\u0308te").mkdir()
    assert user_path("Ger\u00e4te/c", what="data.cache") == str(standing / "Gera\u0308te/c")


@pytest.mark.parametrize(
    "value, message",
    [
        ("~nobody-of-this-name/c", "there is no home folder of ~nobody-of-this-name"),
        (" ", "data.cache is empty"),
        ("s3://bucket/c", "give a path on this machine, not an address"),
        ("file:///c", "give a path on this machine, not an address"),
    ],
)
def test_what_is_no_path_is_refused(standing: Path, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        user_path(value, what="data.cache")


def test_a_file_is_told_from_a_name(standing: Path) -> None:
    (standing / "a.ckpt").touch()
    (standing / "a,b.ckpt").touch()
    (standing / "router").mkdir()
    for name in (
        "latest",
        "0123abcd",
        "router",
        "models:/adaptf-a/3",
        "journal",
        "postgresql://user@host/studies",
        "x.ckpt",
    ):
        assert user_file_or_name(name, what="runs") == name
    assert user_file_or_name("a.ckpt", what="runs") == str(standing / "a.ckpt")
    assert user_file_or_name("a,b.ckpt", what="runs") == str(standing / "a,b.ckpt")
    assert user_file_or_name("0123abcd,a.ckpt", what="runs") == f"0123abcd,{standing / 'a.ckpt'}"
    assert user_file_or_name("./router", what="model_uri") == str(standing / "router")
    assert user_file_or_name("~/x.ckpt", what="runs") == str(standing.parent / "home/x.ckpt")
    assert user_file_or_name("sqlite:///s.db", what="sweep.storage") == f"sqlite:///{standing / 's.db'}"


def test_ids_of_runs_are_names_however_many(standing: Path) -> None:
    ids = ",".join(["0123456789abcdef" * 2] * 8)  # longer than a file's name may be
    assert user_file_or_name(ids, what="teacher_runs") == ids


def test_a_tilde_is_the_home_folder_in_each_of_several_values(standing: Path) -> None:
    home = standing.parent / "home"
    (home / "a,b.ckpt").touch()
    assert user_file_or_name("~/a,b.ckpt", what="runs") == str(home / "a,b.ckpt")
    assert (
        user_file_or_name("~/x.ckpt,0123abcd, ~/y.ckpt", what="runs")
        == f"{home / 'x.ckpt'},0123abcd,{home / 'y.ckpt'}"
    )


def test_where_the_users_folder_is_not_known_relative_paths_are_refused(
    standing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "user_folder", lambda: None)
    with pytest.raises(UserError, match=r"data\.cache is 'c', a relative path, .*: give an absolute path"):
        user_path("c", what="data.cache")
    assert user_path("~/c", what="data.cache") == str(standing.parent / "home/c")
    assert user_file_or_name("latest", what="runs") == "latest"


def test_under_mlflow_run_the_user_stands_where_that_was_started(standing: Path, tmp_path: Path) -> None:
    """As MLflow does it: bash in the project's folder, told the run's id;
    Lightning's helpers have one process more above."""
    project = tmp_path / "project"
    project.mkdir()
    show = "from adaptf.paths import user_folder; print(user_folder())"
    helper = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{show}'])"
    for code in (show, helper):
        start = (
            "import json, os, subprocess, sys; environment = {**os.environ, 'MLFLOW_RUN_ID': 'r1'}; "
            f"subprocess.run(['bash', '-c', sys.argv[1]], cwd={str(project)!r}, env=environment)"
        )
        command = f"{sys.executable} -c {json.dumps(code)}; true"
        environment = {**os.environ, "PYTHONPATH": str(Path(paths.__file__).parents[1])}
        done = subprocess.run(
            [sys.executable, "-c", start, command],
            cwd=standing,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(standing)
    assert user_folder() == standing
