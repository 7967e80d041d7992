"""The code that answers: the modules of this package that the router imports, as one archive that Python
imports from."""

import io
import zipfile
from functools import cache
from pathlib import Path

import grimp

import adaptf
from adaptf.serving.logged_model import ARCHIVE

_ROUTER = "adaptf.serving.router"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The time of every file: the same code makes the same bytes."""


def write_archive(folder: Path) -> Path:
    """Writes it into a folder. One file, because a store takes them one after the other."""
    path = folder / ARCHIVE
    path.write_bytes(_archive())
    return path


@cache
def _archive() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
        for name, source in answering_code().items():
            files.writestr(zipfile.ZipInfo(name, _LONG_AGO), source, zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def answering_code() -> dict[str, bytes]:
    """By name, such as `adaptf/serving/router.py`: what the router imports, directly or not, and the packages
    around it."""
    above = Path(adaptf.__file__).parents[1]
    graph = grimp.build_graph("adaptf", cache_dir=None, exclude_type_checking_imports=True)
    modules = graph.find_upstream_modules(_ROUTER) | {_ROUTER}
    packages = {".".join(parts[:depth]) for parts in _parts(modules) for depth in range(1, len(parts))}
    names = [Path(*parts, "__init__.py") for parts in _parts(packages)]
    names += [Path(*parts).with_suffix(".py") for parts in _parts(modules - packages)]
    return {name.as_posix(): (above / name).read_bytes() for name in sorted(names)}


def _parts(modules: set[str]) -> list[list[str]]:
    return [module.split(".") for module in modules]
