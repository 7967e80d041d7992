"""The study of a sweep: who begins it, who joins it, and what all of its workers agree on."""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import DuplicatedStudyError

from adaptf.errors import UserError
from adaptf.pipeline.config import settings, upstream_fields
from adaptf.pipeline.stage import plain
from adaptf.pipeline.upstream import resolve_upstream
from adaptf.sweeps.search import SearchConfig
from adaptf.sweeps.space import NOT_SEARCHED, Space
from adaptf.sweeps.storage import open_storage
from adaptf.tracking.runs import LATEST

AGREED, PARENT = "adaptf.agreed", "adaptf.run"
"""Attributes of a study: what its workers have to agree on; the run under which those of the trials are."""
_BEGINNING_SECONDS = 30.0
"""A study that says nothing of itself after so long, nobody is beginning any more."""


def begin_or_join(search: SearchConfig, space: Space, config: Any, *, stage: str, run: str) -> optuna.Study:
    """The study, which the first worker begins under its run; that one also says which runs `latest` means.

    Raises UserError where the study has other settings than these.
    """
    storage = open_storage(search)
    if search.study not in optuna.get_all_study_names(storage):
        mine = _agreed(stage, space, resolve_upstream(config))
        with suppress(DuplicatedStudyError):  # another worker was quicker
            study = optuna.create_study(storage=storage, study_name=search.study, direction="maximize")
            study.set_user_attr(PARENT, run)
            study.set_user_attr(AGREED, mine)
    study = optuna.load_study(storage=storage, study_name=search.study)
    if found := _differences(_agreed(stage, space, config), _told(study)):
        listed = "\n  ".join(found)
        raise UserError(
            f"study '{search.study}' has other settings, give another sweep.study or the same:\n  {listed}"
        )
    return study


def _agreed(stage: str, space: Space, config: Any) -> dict[str, Any]:
    """What the workers of a study have to agree on, by the names that a message gives it."""
    taken = [field.name for field in upstream_fields(config)]
    values = plain(settings(config))
    fixed = [
        name for name in values if name == "seed" or name.partition(".")[0] not in (*NOT_SEARCHED, *taken)
    ]
    return {
        "stage": stage,
        **{f"space, {field}": distribution_to_json(distribution) for field, distribution in space.items()},
        **{f"{stage}.{name}": values[name] for name in fixed if name not in space},
        **{name: values[name] for name in taken},
    }


def _told(study: optuna.Study) -> dict[str, Any]:
    """What they agree on. Raises UserError where the study does not say it; one just begun gets some time."""
    until = time.monotonic() + _BEGINNING_SECONDS
    while AGREED not in (found := study.user_attrs):
        if time.monotonic() > until:
            raise UserError(
                f"study '{study.study_name}' is none of this version of adaptf, or was interrupted as it "
                "began: give another sweep.study"
            )
        time.sleep(0.2)
    return dict(found[AGREED])


def _differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """In words; runs that were left to `latest` are whatever the study has."""
    if mine["stage"] != theirs["stage"]:
        return [f"stage: {theirs['stage']} there, {mine['stage']} here"]
    return [
        f"{name}: {theirs.get(name, 'not')} there, {mine.get(name, 'not')} here"
        for name in {**theirs, **mine}
        if mine.get(name) not in (theirs.get(name), LATEST)
    ]
