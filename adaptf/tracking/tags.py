"""Tags of the run of a stage, which later stages and the lineage read."""

STAGE = "adaptf.stage"
"""Tag of a run: the stage that it did."""
FINGERPRINT = "adaptf.fingerprint"
UPSTREAM = "adaptf.upstream."
"""Begin of a tag per run that a stage took from, whatever the command line said (`latest`)."""
FILE = "adaptf.file."
"""Begin of a tag per checkpoint file that a stage took from in the place of a run: its name and digest."""
FOLD = "adaptf.fold"
"""Tag: which fold's data a run made or worked on; `latest` never means such a run, as other folds belong to
it."""
TRIAL = "adaptf.trial"
"""Tag: the number of the trial of a sweep whose run it is; `latest` never means such a run."""
REFIT = "adaptf.refit"
"""Tag: the run learnt from the validation clips too, on which nothing that comes of it can be judged."""
SCORE = "adaptf.score"
"""Tag: the metric, or the begin of those, that tells how good the run's model is."""
DATA_DIGEST = "adaptf.digest"
"""Tag: digest of the data set that a run made or worked on."""
CONTINUES = "adaptf.continues"
"""Tag of a run that `mlflow run` made in vain: the interrupted one in which the work went on."""


def fold_tag(fold: str) -> dict[str, str]:
    """Of a run on this fold's data; none where there is one split alone."""
    return {FOLD: fold} if fold else {}
