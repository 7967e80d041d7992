"""The start of a training from a network that has learnt from other data."""

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from adaptf.data.clips import SPLITS
from adaptf.data.parquet import read_table
from adaptf.models.checkpoint import initialise_from
from adaptf.models.classifier import Classifier
from adaptf.pipeline.artifacts import CLIPS, DATA
from adaptf.pipeline.checkpoints import checkpoint_of
from adaptf.pipeline.dataset import PreparedData
from adaptf.tracking.runs import NONE, UpstreamError
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.tags import UPSTREAM


def start_from(classifier: Classifier, run: StageRun, pretrain_run: str, data: PreparedData) -> str:
    """Loads the weights of a `pretrain` run, or of a file, but those of the last layer; tells what it was.

    Raises UpstreamError where clips that judge here have been learnt before.
    """
    origin = "From scratch."
    if pretrain_run != NONE:
        _check_learnt(run, pretrain_run, data.table)
        loaded = initialise_from(classifier, checkpoint_of(run, pretrain_run))
        origin = f"From {pretrain_run}:\n{loaded}"
    print(origin, flush=True)
    return origin


def _check_learnt(run: StageRun, pretrain_run: str, ours: pd.DataFrame) -> None:
    """By the clips of a run and of those from which it started; nobody knows those of a file."""
    while pretrain_run != NONE and pretrain_run.isalnum():
        try:
            tags = mlflow.get_run(pretrain_run).data.tags
            prepared = tags[f"{UPSTREAM}prepare_run"]
            theirs = read_table(run.download(prepared, DATA) / CLIPS)
        except (MlflowException, KeyError, UpstreamError) as error:
            print(
                f"Whether clips that judge here were learnt in {pretrain_run} can't be told: {error}",
                flush=True,
            )
            return
        if known := _known(theirs, ours):
            raise UpstreamError(
                f"{len(known)} clips that judge here, such as {known[0]}, were learnt in run {pretrain_run}, "
                f"from prepare run {prepared}: scores would come out too good. Pre-train without them"
            )
        pretrain_run = tags.get(f"{UPSTREAM}pretrain_run", NONE)


def _known(theirs: pd.DataFrame, ours: pd.DataFrame) -> list[str]:
    """Clips of ours, by any name, that train there and judge here, or validate there and test here."""
    place = {split: place for place, split in enumerate(SPLITS)}
    first = theirs["split"].map(place).groupby(theirs["key"]).min()
    known = ours["key"].map(first) < ours["split"].map(place)
    return list(ours.loc[known, "filename"])
