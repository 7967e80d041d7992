"""What a run leaves for later stages: its artifacts, tags and metrics, in the order of the pipeline.

What every run has, whichever stage it is of, stands in `tracking/tags.py`.
"""

import json

import pandas as pd

from adaptf.tracking.checkpoint_files import files_of
from adaptf.tracking.stage_run import StageRun

# prepare
DATA_KIND = "adaptf.data"
"""Tag: scenes, audioset, or scenes of a data set to pre-train on."""
SCENES_KIND, AUDIOSET_KIND, TO_PRETRAIN = "scenes", "audioset", "scenes to pre-train on"
DATA, DATASET, CLIPS = "data", "dataset.json", "clips.parquet"
"""Artifact folder, and what it holds: the data set's description and its clip table."""
TRAINING_CLIPS = "clips/train"
"""Metric: how many there are."""

# pretrain, train, teacher, distill
CHECKPOINTS = "checkpoints"
BEST = f"{CHECKPOINTS}/best.ckpt"
"""Artifact: the checkpoint that later stages take."""
BEST_ACCURACY, BEST_PRECISION = "best/accuracy", "best/mean_average_precision"
"""Metrics: by which that checkpoint was chosen; `finetune` and `quantize` leave the first one too."""

# teacher
TEACHER_KIND, TEACHER_MODEL = "adaptf.teacher", "adaptf.teacher_model"
"""Tags: which teacher of the ensemble it is, and which network."""
LOGITS = "logits"
"""Artifact folder: the teacher's logits of training and validation clips."""

# train, teacher, distill, finetune, quantize
VALIDATION_PREDICTIONS = "validation"
"""Artifact folder: predictions of validation clips by setting; of `quantize` by device, of the clips of all
devices."""

# finetune
DEVICE_RUNS = "models.json"
"""Artifact: device -> id of the run that holds its model."""
DEVICE_TAG = "adaptf.device"
"""Tag: the device whose model a run, or a registered version, holds."""
START, KEPT = "start/accuracy", "kept/accuracy"
"""Metrics of a device's run: before fine-tuning, and of the model that is kept."""

# quantize
INT8 = "int8"
"""Artifact folder: a network per device, <device>.pt2 with its other forms."""
DESCRIPTION = "description.json"
"""In that folder: classes and features, the same for all of them."""
QUANTIZATION = "quantization.csv"
"""Artifact: what was found about each model, a row per device."""
INT8_ACCURACY = "INT8 accuracy"
"""A column of it, and the begin of a metric per device."""

# evaluate, compare
TABLES_FOLDER, TABLES = "tables", "tables.txt"
"""Artifacts: figures, with a table of predictions per run of each setting; what people read of them."""
TEST_ACCURACY = "test/accuracy"
"""Begin of a metric per setting."""
SERVED_ACCURACY = f"{TEST_ACCURACY}/per device INT8"
"""The one that tells how good the models are which will be served."""

# register
VERSIONS = "versions.json"
"""Artifact: registered model -> version."""
QUANTIZE_RUN, EVALUATE_RUN = "adaptf.quantize_run", "adaptf.evaluate_run"
"""Tags of a version: the runs that made and scored it."""

# export
EXPORTED, EXPORTED_TABLE = "export", "export.csv"
"""Artifacts: the files for devices; what was found about the ONNX files among them."""
FRONT_END_HEADER = "front_end.h"
"""In that folder: what all networks hear; <device>.h, <device>.onnx and <device>_log_mel.onnx are of one."""
EXPORT_RUN = "adaptf.export_run"
"""Tag of a version: the run that wrote its files for devices."""

# promote, rollback
PROMOTED, REPLACED = "adaptf.promoted.", "adaptf.replaced."
"""Begin of a tag per registered model: the version that went into production, and the one before."""

# main
DONE = "adaptf.run."
"""Begin of a tag per step, which holds its run."""


def device_runs(run: StageRun, value: str) -> dict[str, str]:
    """Device -> what holds its model:
    runs, of a run of `finetune`, or the checkpoint files given in its place."""
    if files := files_of(value):
        return {device: str(path) for device, path in files.items()}
    return dict(json.loads(run.download(value, DEVICE_RUNS).read_text()))


def figure_tag(column: str) -> str:
    """Tag of a version that holds a figure of `QUANTIZATION`, such as adaptf.relative_loss."""
    return f"adaptf.{column.replace(' ', '_')}"


def quantization(run: StageRun, quantize_run: str) -> pd.DataFrame:
    """What a run of `quantize` found, a row per device."""
    return pd.read_csv(run.download(quantize_run, QUANTIZATION), converters={"device": str}).set_index(
        "device"
    )
