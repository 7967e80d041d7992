"""Stage `teacher`: a teacher learns the scenes and predicts the training clips.

Without the file that it starts from a small convolutional network, trained from scratch, takes the teacher's
place; it is called what it is in the run, its tags and every table.
"""

from collections.abc import Mapping
from dataclasses import replace

from adaptf.data.clips import VALIDATION
from adaptf.data.teacher_logits import TeacherLogits, write_teacher_logits
from adaptf.evaluation.scores import prediction_table
from adaptf.models.teachers.registry import PUBLISHED
from adaptf.pipeline.artifacts import BEST_ACCURACY, LOGITS, SCENES_KIND, TEACHER_KIND, TEACHER_MODEL
from adaptf.pipeline.checks import check_training
from adaptf.pipeline.dataset import load_prepared
from adaptf.pipeline.folds import out_of_fold, out_of_fold_logits
from adaptf.pipeline.learn_teacher import learn
from adaptf.pipeline.published import published
from adaptf.pipeline.several import OverSeveral, with_fold
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.teachers import TeacherConfig, file_digest, network_kind
from adaptf.pipeline.validation import with_predictions, with_validation_tables
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun, is_process_zero


def teacher(config: TeacherConfig, run: StageRun) -> Result:
    """The best checkpoint on validation clips predicts all learning clips as they are; or others did."""
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    is_published = config.kind == PUBLISHED
    if is_published:
        result, logits = published(config.published, run, data, config.trainer.score)
    else:
        result, logits = learn(config, run, data)
    rows = data.learning_rows()
    table = TeacherLogits(
        tuple(rows["filename"]), data.classes, logits, teacher_run=run.run_id, data_digest=data.digest
    )
    if not is_process_zero():
        return Result()
    write_teacher_logits(run.folder / LOGITS, table)
    heard = (rows["split"] == VALIDATION).to_numpy()
    settings = {network_kind(config): prediction_table(rows[heard], logits[heard], data.classes)}
    result = with_validation_tables(result, data, settings, chose=not is_published)
    return _as_teacher(with_predictions(result, run, settings), config, run)


def _as_teacher(result: Result, config: TeacherConfig, run: StageRun) -> Result:
    """The result with the logits that lie in the run's folder, and whose they are."""
    return replace(
        result,
        files={**result.files, LOGITS: run.folder / LOGITS},
        tags={TEACHER_KIND: config.kind, TEACHER_MODEL: network_kind(config)},
    )


def teacher_over_folds(config: TeacherConfig, children: Mapping[int, str], run: StageRun) -> Result:
    """With the logits of each clip by the teacher that has not learnt from its place."""
    setting = network_kind(config)
    result = out_of_fold(config, children, run, settings=[setting])
    write_teacher_logits(run.folder / LOGITS, out_of_fold_logits(config, run, setting))
    return _as_teacher(result, config, run)


TEACHER = Stage(
    "teacher",
    run=teacher,
    config=TeacherConfig,
    check=check_training,
    reads=file_digest,
    words=lambda config: [f"{config.kind} ({network_kind(config)})"],
    score=BEST_ACCURACY,
    folds=OverSeveral(with_fold, teacher_over_folds),
)


if __name__ == "__main__":
    TEACHER.main()
