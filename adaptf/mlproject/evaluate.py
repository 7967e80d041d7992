"""Stage `evaluate`: the class-wise and device-wise tables on the test clips,
and which differences between settings stand."""

from dataclasses import dataclass, replace

from adaptf.data.clips import TEST
from adaptf.errors import UserError
from adaptf.evaluation.scores import log_loss, macro_accuracy
from adaptf.pipeline.artifacts import DATA_KIND, SCENES_KIND, SERVED_ACCURACY, TEST_ACCURACY
from adaptf.pipeline.config import aside, upstream, upstream_several
from adaptf.pipeline.dataset import load_tested
from adaptf.pipeline.predictions import load_models, predict_by_device
from adaptf.pipeline.run_names import teacher_name
from adaptf.pipeline.several import OVER_FOLDS
from adaptf.pipeline.stage import Stage
from adaptf.pipeline.validation import DISTILLED, FINETUNED, QUANTIZED, TRAINED
from adaptf.reports.evaluation_report import report
from adaptf.tracking import runs
from adaptf.tracking.checkpoint_files import files_of
from adaptf.tracking.outcome import Result
from adaptf.tracking.runs import NONE
from adaptf.tracking.stage_run import StageRun

SETTINGS = {
    "train_run": TRAINED,
    "distill_run": DISTILLED,
    "finetune_run": FINETUNED,
    "quantize_run": QUANTIZED,
}
"""Field of the configuration -> what the tables call it."""
MEANINGS = {
    TRAINED: "one model, from the labels alone",
    DISTILLED: "one model, distilled: without device fine-tuning",
    FINETUNED: "a model per device: with device fine-tuning",
    QUANTIZED: "the same as INT8",
}


@dataclass(frozen=True)
class EvaluateConfig:
    """Scores models on the test clips.
    Each setting can be left out with `none`, and can be several runs with other seeds."""

    prepare_run: str = upstream("prepare", **{DATA_KIND: SCENES_KIND})
    """Run of `prepare` that holds the scenes."""
    train_run: str = upstream_several("train", files="one")
    """One model, from the labels alone; can be a checkpoint file.
    Several runs, separated by commas, or a run over seeds, are shown by their mean."""
    distill_run: str = upstream_several("distill", files="one")
    """One model, distilled: without device fine-tuning; can be a checkpoint file."""
    finetune_run: str = upstream_several("finetune", files="per device")
    """A model per device: with device fine-tuning; can be checkpoint files: a folder of <device>.ckpt, or a
    mapping such as '{a: a.ckpt, unknown: u.ckpt}'."""
    quantize_run: str = upstream_several("quantize")
    """A model per device in INT8, as it is served: a run of `quantize`."""
    accelerator: str = aside("auto")
    """Kind of processor that runs float models: cpu, gpu, ... or auto. INT8 models run on the CPU."""


def evaluate(config: EvaluateConfig, run: StageRun) -> Result:
    """One page for a reader;
    tables as text, CSV and Markdown, pictures, the hardest clips, and every setting's predictions."""
    data = load_tested(run, config.prepare_run)
    run_ids = run_ids_of(config)
    loaded = {
        setting: [load_models(run, run_id, data, config.accelerator) for run_id in values]
        for setting, values in run_ids.items()
    }
    rows = data.table[data.table["split"] == TEST]
    settings = {
        setting: [predict_by_device(models, data, rows, setting) for models in several]
        for setting, several in loaded.items()
    }
    remark = " ".join(filter(None, [left_out(config), origin_of_teachers(config)]))
    told = report(settings, data, run, remark=remark, run_ids=run_ids, meanings=MEANINGS)
    judged = {
        run_id: {TEST_ACCURACY: macro_accuracy(one), "test/log_loss": log_loss(one, data.classes)}
        for setting, predictions in settings.items()
        for run_id, one in zip(run_ids[setting], predictions, strict=True)
        if not files_of(run_id)
    }
    return replace(told, judged=judged)


def run_ids_of(config: EvaluateConfig) -> dict[str, list[str]]:
    """The runs (or checkpoint files) of each setting."""
    values = {setting: getattr(config, field) for field, setting in SETTINGS.items()}
    wanted = {setting: runs.split_ids(value) for setting, value in values.items() if value != NONE}
    if not wanted:
        raise UserError(
            "there is nothing to evaluate: all of train_run, distill_run, finetune_run and quantize_run are "
            "'none'"
        )
    return wanted


def left_out(config: EvaluateConfig) -> str:
    """Names the settings for which no run stands: without them the tables still look complete."""
    missing = [setting for field, setting in SETTINGS.items() if getattr(config, field) == NONE]
    return f"Left out, without a run: {', '.join(missing)}." if missing else ""


def origin_of_teachers(config: EvaluateConfig) -> str:
    """Which teachers stand behind the distilled models; a small one is named, because it is no BEATs."""
    if config.distill_run == NONE or files_of(config.distill_run):
        return ""
    first = config.distill_run.split(",")[0]
    run_ids = runs.upstream_of(first, "distill", "teacher_runs").split(",")
    return f"Teachers: {', '.join(teacher_name(run_id) for run_id in run_ids)}."


EVALUATE = Stage(
    "evaluate",
    run=evaluate,
    config=EvaluateConfig,
    score=SERVED_ACCURACY,
    folds=OVER_FOLDS,
)


if __name__ == "__main__":
    EVALUATE.main()
