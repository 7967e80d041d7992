"""Stage `export`: files for devices, each run and held against the model that it was made of."""

from dataclasses import asdict, dataclass

import pandas as pd
import torch

from adaptf.audio.logmel import LogMel
from adaptf.compression.c_header import front_end_header
from adaptf.compression.onnx_front_end import onnx_front_end
from adaptf.compression.runtime import why_no_onnx
from adaptf.data.clips import VALIDATION
from adaptf.errors import UserError
from adaptf.evaluation.tables import as_markdown
from adaptf.names import stored
from adaptf.pipeline.artifacts import (
    DATA_KIND,
    EXPORT_RUN,
    EXPORTED,
    EXPORTED_TABLE,
    FRONT_END_HEADER,
    SCENES_KIND,
    figure_tag,
)
from adaptf.pipeline.config import file_or_name, upstream, upstream_model
from adaptf.pipeline.dataset import PreparedData, load_prepared
from adaptf.pipeline.export_device import (
    LEAST_SAME_SCENE,
    CheckClips,
    Exported,
    export_device,
    figures,
    said_of,
)
from adaptf.pipeline.int8_models import Heard, Int8Model, models_of_quantize, models_of_version
from adaptf.pipeline.quantize_device import calibration_rows
from adaptf.pipeline.ranges import COUNT, within
from adaptf.pipeline.stage import Stage, nothing_tells
from adaptf.tracking import registry
from adaptf.tracking.outcome import Result
from adaptf.tracking.present import IN_PRODUCTION
from adaptf.tracking.runs import NONE
from adaptf.tracking.stage_run import StageRun

_TAGGED = ("bytes", "macs", "ms", "same scene")
"""Figures that become tags of a version too: a model's page shows all tags of all versions."""


@dataclass(frozen=True)
class ExportConfig:
    """Writes ONNX files and C headers of INT8 models, to be run where the microphone is."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` on whose validation clips each file is held against its model."""
    model_uri: str = file_or_name(IN_PRODUCTION)
    """What is exported: the models that are in production, or any registered model of adaptf, such as
    models:/adaptf-a/3; of a version of the router, such as models:/adaptf-router/3, the models inside it."""
    quantize_run: str = upstream_model("quantize", files="none", optional=True, default=NONE)
    """Run of `quantize` whose models are exported in the place of registered ones."""
    check_clips: int = within(COUNT, 300)
    """Validation clips, spread over scenes and devices, on which files are held against their models."""
    refuse: bool = True
    """Ends with an error where a file says another scene than its model on more than one clip in 200; false
    only says so."""


def check_installed(config: ExportConfig) -> None:
    """Raises UserError where no file could be written or run."""
    if why := why_no_onnx():
        raise UserError(f"{why}: pip install onnx onnxruntime")


@torch.no_grad()
def export(config: ExportConfig, run: StageRun) -> Result:
    """Raises UserError with the figures where a file says something else than its model."""
    models = models_to_export(config, run)
    data = load_prepared(run, config.prepare_run, kind=SCENES_KIND)
    heard, folder = models[0].heard, run.folder / EXPORTED
    folder.mkdir(exist_ok=True)
    log_mel = LogMel(**heard.mel)
    clips = clips_to_check(data, heard, log_mel, config.check_clips)
    header = front_end_header(log_mel, clips.waveforms[0], clips.log_mels[0, 0])
    (folder / FRONT_END_HEADER).write_text(header)
    front_end, found = onnx_front_end(log_mel, heard.clip_samples), list[Exported]()
    for model in models:
        of_model = export_device(model, front_end, clips, folder)
        print("\n".join(f"{run.name} {model.device}: {said_of(one)}" for one in of_model), flush=True)
        found += of_model
    table = pd.DataFrame(map(asdict, found)).rename(columns=lambda name: name.replace("_", " "))
    table.to_csv(run.folder / EXPORTED_TABLE, index=False)
    verdict = judge(found, refuse=config.refuse, clips=len(clips.waveforms))
    tag_versions(models, found, run.run_id)
    return Result(
        metrics={
            name: value for one in found for name, value in figures(one, f"/{stored(one.device)}").items()
        },
        files={name: run.folder / name for name in (EXPORTED, EXPORTED_TABLE)},
        note=f"{verdict}\n\n{as_markdown(table.set_index('file'))}",
    )


def models_to_export(config: ExportConfig, run: StageRun) -> list[Int8Model]:
    if config.quantize_run != NONE:
        return models_of_quantize(run, config.quantize_run)
    return models_of_version(config.model_uri, run.folder / "versions")


def clips_to_check(data: PreparedData, heard: Heard, log_mel: LogMel, count: int) -> CheckClips:
    """Raises UserError where the data are not of what the models hear."""
    if data.waveforms.format.clip_samples != heard.clip_samples:
        raise UserError(
            f"the models hear clips of {heard.clip_samples} samples, those that were prepared have "
            f"{data.waveforms.format.clip_samples}: name another prepare_run"
        )
    waveforms = calibration_rows(data.clips(VALIDATION), count, seed=0)
    return CheckClips(waveforms, log_mel(waveforms))


def judge(found: list[Exported], *, refuse: bool, clips: int) -> str:
    """What is to be said of all files. Raises UserError where one says other scenes and `refuse` is on."""
    problems = [said_of(one) for one in found if not one.says_the_same]
    if not problems:
        return f"Each file says the scene of its model on {LEAST_SAME_SCENE:.1%} of {clips} clips and more"
    verdict = "\n  ".join(
        [f"files that say another scene than their model too often, of {clips} clips:", *problems]
    )
    if refuse:
        raise UserError(f"{verdict}\nTo keep them in spite of it: -P refuse=false")
    return verdict


def tag_versions(models: list[Int8Model], found: list[Exported], run_id: str) -> None:
    """The versions tell what their files take, and where they are."""
    for model in (model for model in models if model.version):
        own = [one for one in found if one.device == model.device]
        wanted = {f"{one.hears} {name}" for one in own for name in _TAGGED}
        tags = {
            figure_tag(f"onnx {name}"): f"{value:g}" if value % 1 else f"{value:.0f}"
            for one in own
            for name, value in figures(one).items()
            if name in wanted
        }
        registry.tag(model.version, {EXPORT_RUN: run_id, **tags})


EXPORT = Stage("export", run=export, config=ExportConfig, check=check_installed, reads=nothing_tells)

if __name__ == "__main__":
    EXPORT.main()
