"""What `compare` holds against each other:
runs, runs over seeds, registered versions and checkpoint files, by their names."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from adaptf.data.clips import UNKNOWN
from adaptf.errors import UserError
from adaptf.evaluation.changes import OWN_COLUMNS
from adaptf.names import written
from adaptf.paths import user_path
from adaptf.pipeline.artifacts import DEVICE_TAG, INT8_ACCURACY, QUANTIZE_RUN
from adaptf.pipeline.checkpoints import check_scenes
from adaptf.pipeline.dataset import PreparedData
from adaptf.pipeline.given_files import check_readable, is_path
from adaptf.pipeline.lineage import version_of
from adaptf.pipeline.predictions import Model, PlacedModels, load_models
from adaptf.serving import logged_model
from adaptf.serving.bundle import Bundle, RoutedModel, read_bundle
from adaptf.tracking import registry, runs
from adaptf.tracking.checkpoint_files import files_of, is_mapping
from adaptf.tracking.several import with_all_seeds
from adaptf.tracking.stage_run import StageRun


@dataclass(frozen=True)
class Compared:
    """One side of a comparison."""

    label: str
    """What the tables call it."""
    values: tuple[str, ...]
    """Run ids, one per seed; or one checkpoint file or folder, or one version such as models:/adaptf-s1/3."""
    run_ids: tuple[str, ...]
    """The runs that it came from; empty for a file."""
    device: str | None = None
    """The only device for whose clips it answers; None: all. `unknown`:
    for those of devices without a model of their own."""
    others: tuple[str, ...] = ()
    """Devices that have a model of their own beside that for `unknown`."""

    def answers_for(self, device: pd.Series) -> pd.Series:
        """Whether it answers for clips of these devices."""
        if self.device is None:
            return pd.Series(True, index=device.index)
        return ~device.isin(self.others) if self.device == UNKNOWN else device == self.device


def all_compared(values: Sequence[str]) -> list[Compared]:
    """Each of them. Raises UserError where they can't be held against each other, or one does not exist."""
    found = [compared(value) for value in values] if len(values) > 1 else []
    if len({one.values for one in found}) < max(2, len(found)):
        raise UserError(
            f"runs is {','.join(values)}: two different models and more are needed, separated by commas"
        )
    if len({len(one.values) for one in found}) > 1:
        numbers = ", ".join(f"{one.label} has {len(one.values)}" for one in found)
        raise UserError(f"runs over seeds can be paired with as many others only: {numbers}")
    devices = {one.device: one.label for one in found if one.device is not None}
    if len(devices) > 1:
        told = ", ".join(f"{label} of {device}" for device, label in devices.items())
        raise UserError(
            f"models of different devices have no clips in common: {told}. Compare those of one device, or "
            "routers"
        )
    return _with_own_labels(found)


def compared(value: str) -> Compared:
    """A run, a run over seeds, a registered version, a checkpoint file or a folder of them."""
    if value.startswith("models:/"):
        return _compared_version(value)
    if is_mapping(value):
        raise UserError(
            f"runs is cut at each comma: give a folder of <device>.ckpt in place of a mapping such as "
            f"{value}, ..."
        )
    if files := files_of(value):
        check_readable(files)
        path = user_path(value, what="runs")
        return Compared(Path(path).stem, (path,), ())
    if is_path(value):
        raise UserError(f"runs names '{value}': there is no such file or folder")
    run = runs.finished_run(value)
    run_ids = tuple(with_all_seeds(run))
    device = run.data.tags.get(DEVICE_TAG)
    return Compared(runs.name_of(value), run_ids, run_ids, None if device == UNKNOWN else device)


def _compared_version(uri: str) -> Compared:
    """A version of a device's model, or of the router."""
    found = version_of(uri, what="version", wanted="models:/adaptf-s1/3 or models:/adaptf-s1@production")
    name, version, tags = found.name, found.version, found.tags
    device = tags.get(DEVICE_TAG)
    if device is None and name != registry.ROUTER_NAME:
        raise UserError(
            f"{name} version {version} has no tag {DEVICE_TAG} that says whose clips it answers for"
        )
    quantized = tags.get(QUANTIZE_RUN, "")
    scores = runs.scores(quantized) if quantized else {}
    known = {
        written(metric.removeprefix(f"{INT8_ACCURACY}/"))
        for metric in scores
        if metric.startswith(f"{INT8_ACCURACY}/")
    }
    return Compared(
        label=f"{name}/{version}",
        values=(f"models:/{name}/{version}",),
        run_ids=(quantized,) if quantized else (),
        device=device,
        others=tuple(sorted(known - {UNKNOWN})),
    )


def _with_own_labels(found: Sequence[Compared]) -> list[Compared]:
    """Those that are called alike, or as a column of the tables, get a part of their id, or their folder."""
    alike = Counter(one.label for one in found)
    unclear = {label for label, number in alike.items() if number > 1 or label in OWN_COLUMNS}
    return [replace(one, label=_longer(one)) if one.label in unclear else one for one in found]


def _longer(one: Compared) -> str:
    """A label that tells it from others of its name."""
    return f"{one.label} {one.run_ids[0][:6]}" if one.run_ids else one.values[0]


def loaded(one: Compared, run: StageRun, data: PreparedData, accelerator: str) -> list[PlacedModels]:
    """The models of each run."""
    if one.values[0].startswith("models:/"):
        return [_of_version(one, run, data)]
    return [load_models(run, value, data, accelerator) for value in one.values]


def _of_version(one: Compared, run: StageRun, data: PreparedData) -> PlacedModels:
    """A registered version, on the CPU.
    Raises UserError where it was made for other clips or learnt from other data."""
    name, _, version = one.label.partition("/")
    for run_id in one.run_ids:
        runs.check_data(run_id, data.digest)
    folder = run.folder / name / version
    folder.mkdir(parents=True, exist_ok=True)
    bundle = read_bundle(logged_model.download_bundle(name, version, folder))
    check_scenes(one.label, bundle.scenes, data)
    format = data.waveforms.format
    if (bundle.sample_rate, bundle.clip_samples) != (format.sample_rate, format.clip_samples):
        raise UserError(
            f"{one.label} takes clips of {bundle.clip_samples} samples at {bundle.sample_rate} Hz, those of "
            f"the data have {format.clip_samples} at {format.sample_rate} Hz"
        )
    models = {device: _of_waveform(bundle, model) for device, model in bundle.models.items()}
    return PlacedModels(models, torch.device("cpu"))


def _of_waveform(bundle: Bundle, model: RoutedModel) -> Model:
    """Waveforms (batch, samples) -> logits (batch, scenes)."""

    def logits(waveform: Tensor) -> Tensor:
        return model.network(bundle.log_mel(waveform))

    return logits
