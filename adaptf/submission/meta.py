"""The file that describes a submission (task's meta file, YAML): what runs and predictions tell of it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import yaml

from adaptf.errors import UserError
from adaptf.evaluation.scores import log_loss, macro_accuracy
from adaptf.pipeline.artifacts import AUDIOSET_KIND, DATA_KIND, TEACHER_MODEL, TO_PRETRAIN
from adaptf.pipeline.lineage import Node
from adaptf.tracking.runs import NONE
from adaptf.tracking.tags import STAGE

_Linked = dict[str, str | None]
"""A name and a link."""
_AUGMENTATIONS = {
    "dir_p": "dir augmentation",
    "mixstyle_p": "freq-mixstyle",
    "mixup_alpha": "mixup",
    "spec_mask_share": "frequency masking, time masking",
}
"""By the setting that is above 0 where it was used."""
_STEPS = {
    "pretrain": "pre-training",
    "teacher": "train teachers",
    "train": "train general student model",
    "distill": "train general student model with knowledge distillation",
    "finetune_device": "device-specific end-to-end fine-tuning",
    "quantize": "post-training static quantization",
}
"""By stage, in the order in which they are run."""
_MICIRP: _Linked = {"name": "MicIRP", "url": "https://micirp.blogspot.com"}
_TEACHERS: dict[str, _Linked] = {
    "beats": {"name": "BEATs", "url": "https://github.com/microsoft/unilm/tree/master/beats"},
    "transformers": {"name": "Audio Spectrogram Transformer", "url": "https://github.com/YuanGongND/ast"},
}
"""Pre-trained networks by what the tag of a teacher's run says."""
_AUDIOSET: _Linked = {"name": "AudioSet", "url": "https://research.google.com/audioset"}
_COCHLSCENE = "https://zenodo.org/records/7080122"


def meta(
    label: str,
    came: Sequence[Node],
    models: Mapping[str, pd.DataFrame],
    complexity: Mapping[str, Any],
    results: Mapping[str, Any],
) -> dict[str, Any]:
    """Plain values; `models` are the tables of layers by device. People and links are for the user to fill
    in, who has the last word on the rest too."""
    runs = [mlflow.get_run(node.run_id) for node in came if node.stage in {*_STEPS, "prepare"}]
    external = _external(runs)
    return {
        "submission": {"label": label, "name": None, "abbreviation": None, "authors": []},
        "system": {
            "inference_code": None,
            "source_code": None,
            "description": _description(came, runs, external, len(models)),
            "complexity": {
                "total_model_size": complexity["max_Params"],
                "total_parameters": max(map(_parameters, models.values())),
                "macs": complexity["max_MACs"],
            },
            "external_datasets": external,
        },
        "results": {"development_dataset": dict(results)},
    }


def _description(
    came: Sequence[Node], runs: Sequence[mlflow.entities.Run], external: Sequence[_Linked], models: int
) -> dict[str, Any]:
    """Of the system, in the words that the task's own template offers."""
    stages = [stage for stage in _STEPS if any(node.stage == stage for node in came)]
    distilled = ["knowledge distillation"] * ("distill" in stages)
    return {
        "input_sampling_rate": "32kHz",
        "acoustic_features": "log-mel energies",
        "data_augmentation": _listed(_augmentations(runs)),
        "machine_learning_method": "CNN",
        "external_data_usage": _listed(str(one["name"]) for one in external),
        "complexity_management": _listed([*distilled, "weight quantization", "network design"]),
        "pipeline": _listed(_STEPS[stage] for stage in stages),
        "framework": "pytorch",
        "device_information": "per-device end-to-end fine-tuning" if models > 1 else None,
        "num_models_at_inference": models,
        "model_weight_sharing": "fully device-specific" if models > 1 else "fully shared",
    }


def _listed(words: Iterable[str]) -> str | None:
    return ", ".join(words) or None


def _parameters(layers: pd.DataFrame) -> int:
    return int(layers[["weights", "biases"]].sum().sum())


def results_of(predictions: pd.DataFrame, scenes: Sequence[str]) -> dict[str, Any]:
    """Accuracies in percent, means over scenes, and log losses: overall, by scene and by device."""

    def figures(rows: pd.DataFrame) -> dict[str, float]:
        accuracy, loss = macro_accuracy(rows), log_loss(rows.reset_index(drop=True), scenes)
        return {"accuracy": round(100 * accuracy, 2), "logloss": round(loss, 3)}

    return {
        "overall": figures(predictions),
        "class_wise": {str(name): figures(rows) for name, rows in predictions.groupby("scene")},
        "device_wise": {str(name): figures(rows) for name, rows in predictions.groupby("device")},
    }


def read_details(path: str) -> dict[str, Any]:
    """What the user says of the meta file; nothing for `none`. Raises UserError where it can't be read."""
    if path == NONE:
        return {}
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"details {path} can't be read: {error}") from error
    if not isinstance(given, dict) or not given.keys() <= {"submission", "system", "results"}:
        raise UserError(
            f"details {path} should be YAML with the sections submission and system of the meta file"
        )
    return given


def filled_in(made: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was made, with what the user gives in its place, also deep within."""
    both = {
        key: filled_in(made[key], value)
        for key, value in given.items()
        if isinstance(value, Mapping) and isinstance(made.get(key), Mapping)
    }
    return {**made, **given, **both}


def _augmentations(runs: Iterable[mlflow.entities.Run]) -> list[str]:
    """Of the students' trainings; a teacher's run holds settings for teachers of other kinds too."""
    students = [run.data.params for run in runs if run.data.tags[STAGE] != "teacher"]
    values = (setting for one in students for setting in one.items())
    used = {name.removeprefix("augment.") for name, value in values if _is_above_zero(value)}
    return [words for setting, words in _AUGMENTATIONS.items() if setting in used]


def _is_above_zero(value: str) -> bool:
    try:
        return float(value) > 0
    except ValueError:
        return False


def _external(runs: Iterable[mlflow.entities.Run]) -> list[_Linked]:
    """Data and networks from elsewhere, each once, with their links."""
    found: list[_Linked | None] = []
    for run in runs:
        tags, parameters = run.data.tags, run.data.params
        found += [_data_set(run), _TEACHERS.get(tags.get(TEACHER_MODEL, ""))]
        found += [_MICIRP] * any(
            value not in ("", NONE) for name, value in parameters.items() if name.endswith("dir_folder")
        )
    return [
        {**one, "total_audio_length": None}
        for place, one in enumerate(found)
        if one and one not in found[:place]
    ]


def _data_set(run: mlflow.entities.Run) -> _Linked | None:
    """What a run of `prepare` holds for pre-training: AudioSet, or scenes under the name of their folder."""
    if run.data.tags.get(DATA_KIND) == AUDIOSET_KIND:
        return _AUDIOSET
    if run.data.tags.get(DATA_KIND) != TO_PRETRAIN:
        return None
    used = run.inputs.dataset_inputs if run.inputs else []
    name = next((one.dataset.name for one in used), "scenes")
    return {"name": name, "url": _COCHLSCENE if "cochl" in name.lower() else None}
