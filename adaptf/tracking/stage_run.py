"""The run that a stage works for."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.pandas_dataset import from_pandas
from mlflow.exceptions import MlflowException

from adaptf.data.shared_objects import SharedObjects
from adaptf.tracking import lease
from adaptf.tracking.epoch_metrics import EpochMetrics, send
from adaptf.tracking.refusals import refusal
from adaptf.tracking.runs import UpstreamError
from adaptf.tracking.tags import DATA_DIGEST, STAGE, fold_tag
from adaptf.training.group import process_place

Watch = Callable[[int, float], None]
"""Takes the epochs that are done, so 1 first, and the score of their validation."""


class StopTraining(Exception):
    """`watch` raises it, or one of its kind, to end a training that is of no more use:
    no failure, and nothing to resume."""


@dataclass(frozen=True)
class UsedData:
    """Data that a run used, as its page shows it."""

    name: str
    digest: str
    table: pd.DataFrame
    source: str
    """Where the data came from."""
    fold: str = ""
    """Which of several folds validates, such as `2 of 5 by city`; '' where there is one split alone."""


@dataclass(frozen=True)
class StageRun:
    """The run that a stage works for."""

    run_id: str
    name: str
    folder: Path
    """Kept while the stage is unfinished, so that it can resume; deleted afterwards."""
    watch: Watch | None = None
    """Told of each validation's epoch and score; what it raises ends the training."""
    shared: SharedObjects = field(default_factory=SharedObjects)
    """What a process's stages need not read twice."""

    def epoch_metrics(self) -> EpochMetrics:
        """Takes a training's metrics without a server: they go to the run when the server answers."""
        return EpochMetrics(self.folder, lease.raise_if_lost)

    def send_metrics(self) -> None:
        """Brings to the run what was noted and the store does not have."""
        send(self.folder, self.run_id)

    def log_input(self, data_set: UsedData) -> None:
        """Notes what data the run works on."""
        if is_process_zero():
            lease.check()
            log_data_set(data_set)
            mlflow.set_tags({DATA_DIGEST: data_set.digest, **fold_tag(data_set.fold)})

    def download(self, run_id: str, artifact: str) -> Path:
        """Local path of another run's artifact (file or folder), fetched once for all that share it:
        nobody may change it."""
        downloads = self.shared.once(
            "downloads", lambda: TemporaryDirectory(prefix="adaptf-")
        )  # goes when `shared` does
        return self.shared.once(
            ("download", run_id, artifact), lambda: download(run_id, artifact, Path(downloads.name))
        )


def download(run_id: str, artifact: str, folder: Path) -> Path:
    """Local path of a run's artifact, in a subfolder of its own. Raises UpstreamError where there is none."""
    target = folder / run_id
    target.mkdir(exist_ok=True)
    try:
        return Path(
            mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=artifact, dst_path=str(target))
        )
    except (MlflowException, OSError) as error:
        reason = refusal(error) or f"run {run_id} has no artifact '{artifact}': {error}"
        raise UpstreamError(reason) from error


def is_process_zero() -> bool:
    """Whether this process is the one of a distributed training that writes to MLflow."""
    return process_place() == (0, 0)


def log_data_set(data_set: UsedData) -> None:
    """Adds a data set to the inputs of the active run, which uses it for its stage."""
    active = mlflow.active_run()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*can be interpreted in multiple ways.*")
        # A few rows tell the columns: MLflow looks at every value, seconds for a table of 200,000.
        shown = from_pandas(data_set.table.head(), source=data_set.source, digest=data_set.digest)
    described = MetaDataset(shown.source, name=data_set.name, digest=data_set.digest, schema=shown.schema)  # type: ignore[abstract]
    mlflow.log_input(described, context=active.data.tags.get(STAGE) if active else None)
