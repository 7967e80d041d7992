"""A start without the registry: from the copy of what was asked for, and of nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adaptf.errors import UserError
from adaptf.mlproject.serve import ServeConfig, load_router
from adaptf.serving.kept import KeptVersions
from adaptf.serving.logged_model import Refused


@pytest.fixture
def load(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Loads a URI where version 3 of the router is kept, and the registry fails."""
    KeptVersions(tmp_path).keep("adaptf-router", "3", bundle)

    def loaded(uri: str, error: Exception) -> object:
        def fail(model: str) -> str:
            raise error

        monkeypatch.setattr("adaptf.mlproject.serve.present_version", fail)
        return load_router(ServeConfig(model_uri=uri, live=False, keep=str(tmp_path)))

    return loaded


@pytest.mark.parametrize("version", ["@production", "/3"])
def test_what_was_asked_for_starts_from_its_copy(version: str, load: Callable[..., object]) -> None:
    assert load(f"models:/adaptf-router{version}", OSError("away"))


@pytest.mark.parametrize("version", ["@candidate", "/Production", "", "/2"])
def test_a_copy_of_something_else_does_not_start(version: str, load: Callable[..., object]) -> None:
    with pytest.raises(UserError, match="nothing is kept of it: away"):
        load(f"models:/adaptf-router{version}", OSError("away"))


def test_files_that_were_refused_are_replaced_by_no_copy(load: Callable[..., object]) -> None:
    with pytest.raises(Refused, match="not what was registered"):
        load("models:/adaptf-router@production", Refused("a.bin is not what was registered"))


def test_a_damaged_copy_hides_not_that_the_registry_is_away(
    load: Callable[..., object], tmp_path: Path
) -> None:
    next(tmp_path.glob("adaptf-kept-*/router.json")).write_text("{}")
    with pytest.raises(UserError, match=r"cannot be loaded \(away\), and its copy can't either"):
        load("models:/adaptf-router@production", OSError("away"))
