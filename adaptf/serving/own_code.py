"""A registered version as it answers by its own code: in this process where that is the code which is
installed here, else in a process of its own."""

import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

import adaptf
from adaptf.serving.local import local_router
from adaptf.serving.logged_model import bundle_behind, code_behind
from adaptf.serving.router_process import RouterProcess


class Router(Protocol):
    """Rows of audio and device -> rows of scene, probabilities and the version that answered."""

    def predict(self, context: Any, model_input: pd.DataFrame, /) -> pd.DataFrame: ...


@contextmanager
def router_behind(uri: str, folder: Path, *, what: str, **settings: Any) -> Iterator[Router]:
    """That of a model, downloaded into a folder; `settings` are those of `serving/settings.py`.
    Raises UserError, which calls the model `what`, where it has none or does not start."""
    bundle = bundle_behind(uri, folder, what=what)
    code = code_behind(uri, folder, what=what)
    if is_installed(code):
        yield local_router(bundle, **settings)
    else:
        print(f"{what} answers by its own code, in a process of its own", flush=True)
        with closing(RouterProcess(code, bundle, settings, what=what)) as router:
            yield router


def is_installed(code: Path) -> bool:
    """Whether every file of a model's code is the same here; then so is what they import."""
    here = Path(adaptf.__file__).parents[1]
    return all(
        (here / name).is_file() and (here / name).read_bytes() == source for name, source in _sources(code)
    )


def _sources(code: Path) -> Iterator[tuple[str, bytes]]:
    """Names below the folder that Python imports from, and what the files hold."""
    if code.is_file():
        with zipfile.ZipFile(code) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
    else:
        for path in code.rglob("*.py"):
            yield path.relative_to(code).as_posix(), path.read_bytes()
