"""What a parent over folds makes of its trainings: each clip as the model heard it that has not learnt from
its place."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from adaptf.data.parquet import read_table
from adaptf.data.teacher_logits import TeacherLogits
from adaptf.evaluation.scores import accuracy
from adaptf.pipeline.artifacts import BEST_ACCURACY, SCENES_KIND, VALIDATION_PREDICTIONS
from adaptf.pipeline.dataset import PreparedData, look_at_prepared
from adaptf.pipeline.several import OverSeveral, folds_of, scores_over, with_fold
from adaptf.pipeline.validation import read_validation_predictions, with_predictions, with_validation_tables
from adaptf.tracking.outcome import Result
from adaptf.tracking.several import FOLDS
from adaptf.tracking.stage_run import StageRun


def over_folds(*settings: str) -> OverSeveral:
    """How a training goes over folds whose runs leave the predictions of these settings, that of the model as
    the last."""
    return OverSeveral(with_fold, partial(out_of_fold, settings=settings))


def out_of_fold(
    config: Any, children: Mapping[int, str], run: StageRun, *, settings: Sequence[str]
) -> Result:
    """Mean and interval over folds, and the folds' predictions of their validation clips together as if they
    were one model's.

    The accuracy of the last setting on them is `best/accuracy`.
    """
    over = scores_over(FOLDS, children, run)
    pooled = {
        setting: pd.concat(
            [read_validation_predictions(run, child, setting) for child in children.values()],
            ignore_index=True,
        )
        for setting in settings
    }
    best = accuracy(pooled[settings[-1]], config.trainer.score)
    result = replace(over, metrics={**over.metrics, BEST_ACCURACY: best})
    return with_predictions(with_validation_tables(result, data_of_folds(config, run), pooled), run, pooled)


def out_of_fold_logits(config: Any, run: StageRun, setting: str) -> TeacherLogits:
    """Those that `out_of_fold` left: one table for students of any split of the clips that has the same test
    clips."""
    data = data_of_folds(config, run)
    clips = read_table(run.folder / VALIDATION_PREDICTIONS / f"{setting}.parquet")
    return TeacherLogits(
        tuple(clips["filename"]),
        data.classes,
        clips[list(data.classes)].to_numpy(np.float32),
        teacher_run=run.run_id,
        data_digest=data.learning_digest,
    )


def data_of_folds(config: Any, run: StageRun) -> PreparedData:
    """The data of the first fold, whose clips, classes and devices are those of all."""
    prepare_run = with_fold(config, folds_of(config)[0]).prepare_run
    return look_at_prepared(run, prepare_run, kind=SCENES_KIND)
