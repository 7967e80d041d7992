"""The last word of a run: that all of it is there, and which artifacts belong to it."""

import json
from collections.abc import Collection, Iterable

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from adaptf.errors import without_passwords

COMPLETE = "adaptf.complete"
"""Tag: the places of a run's artifacts and the runs that are parts of it, as JSON, written when all is there
and before the status; until then `NOT_YET`."""
NOT_YET = "no"
CONFIG = "config.yaml"
"""Artifact of every run: its settings."""
_RUN = "runs:/"
"""Begin of a part's entry."""
_BEFORE = ("checkpoints",)
"""What a training left whose run carries no such tag: the version before set its status first."""
_LONGEST = 5000
"""Characters of a tag that every MLflow server takes."""


def set_complete(places: Collection[str], parts: Iterable[str]) -> None:
    """Says that the active run has left all that it leaves, artifacts and run ids:
    nothing may follow but its end."""
    text = json.dumps([CONFIG, *places, *(f"{_RUN}{part}" for part in parts)])
    if len(text) > _LONGEST:
        text = json.dumps(sorted({place.partition("/")[0] for place in (CONFIG, *places)}))
    mlflow.set_tag(COMPLETE, text)


def lack(run: Run) -> str:
    """What keeps others from taking from a run, as the rest of a sentence;
    '' where all that belongs to it is there."""
    if run.info.status != "FINISHED":
        return f"has not finished: its status is {run.info.status}"
    if run.data.tags.get(COMPLETE) == NOT_YET:
        return "was interrupted before all that belongs to it was there"
    belonging = _belonging(run)
    places = [one for one in belonging if not one.startswith(_RUN)]
    if gone := _gone(run.info.run_id, places):
        place = without_passwords(run.info.artifact_uri)
        return f"has finished, but {', '.join(gone)} cannot be found in {place}"
    lacks = (_lack_of_part(one.removeprefix(_RUN)) for one in belonging if one not in places)
    return next(filter(None, lacks), "")


def _lack_of_part(run_id: str) -> str:
    try:
        lacks = lack(mlflow.get_run(run_id))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        lacks = "is gone"
    return f"has finished, but its part, run {run_id}, {lacks}" if lacks else ""


def _belonging(run: Run) -> Collection[str]:
    """What the tag of a finished run tells;
    of one that was made before runs told it, the artifacts that tell a half one."""
    if told := run.data.tags.get(COMPLETE):
        return [str(one) for one in json.loads(told)]
    return _BEFORE if "epoch" in run.data.metrics else ()


def _gone(run_id: str, places: Collection[str]) -> list[str]:
    """Those of a run's artifacts that are not where they were."""
    folders = {place.rpartition("/")[0] for place in places}
    client = mlflow.MlflowClient()
    there = {entry.path for folder in folders for entry in client.list_artifacts(run_id, folder or None)}
    return [place for place in places if place not in there]
