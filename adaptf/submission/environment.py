"""A Python environment that holds a package with its own requirements, and nothing of adaptf."""

import os
import re
import subprocess
import sys
import venv
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

from adaptf.errors import UserError
from adaptf.tracking.runs import NONE

Maker = Literal["pip", "installed"]
_TO_BUILD = "setuptools"
_NAME = re.compile(r"[^\w.-]")
"""Ends the name of a package in a requirement."""
_LAST_LINES = 20


def make_environment(folder: Path, package: Path, *, maker: Maker, constraints: str) -> Path:
    """Installs the package's folder into a new environment and returns its Python.

    pip: with its requirements.txt, which pip fetches as it is set up on this machine, within a file of
    `constraints` where there is one. installed: beside links to what is installed here of its requirements
    and theirs, without network. Raises UserError with pip's last lines where that fails.
    """
    venv.create(folder, clear=True, symlinks=True, with_pip=maker == "pip")
    python = folder / "bin" / "python"
    requirements = (package / "requirements.txt").read_text().split()
    if maker == "pip":
        within = [] if constraints == NONE else ["-c", constraints]
        run_python(python, ["-m", "pip", "install", "-q", *within, _TO_BUILD, *requirements], cwd=package)
    else:
        (there,) = (folder / "lib").glob("python*/site-packages")
        _link_installed([_TO_BUILD, *requirements], there)
    install = ["install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "."]
    run_python(Path(sys.executable), ["-m", "pip", "--python", str(python), *install], cwd=package)
    return python


def run_python(python: Path, arguments: list[str], *, cwd: Path) -> str:
    """What it says, run without anything of this process's paths.
    Raises UserError with its last lines where it fails."""
    done = subprocess.run(
        [python, "-I", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = done.stdout.strip().splitlines()[-_LAST_LINES:]
        raise UserError(f"{python.name} {' '.join(arguments[:3])} failed:\n  " + "\n  ".join(lines))
    return done.stdout


def _link_installed(requirements: list[str], folder: Path) -> None:
    """Links to the files of packages, and of those that they need, as far as they are installed here."""
    found: dict[str, Distribution] = {}
    waiting = list(requirements)
    while waiting:
        requirement, _, marker = waiting.pop().partition(";")
        name = _NAME.split(requirement.strip())[0]
        if name in found or "extra" in marker:
            continue
        with suppress(PackageNotFoundError):  # needed on other systems alone
            found[name] = distribution(name)
            waiting += found[name].requires or []
    for one in found.values():
        for top in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                os.symlink(str(one.locate_file(top)), folder / top)
