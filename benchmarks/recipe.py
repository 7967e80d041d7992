"""What each option of the recipe gains:
trainings that differ by it alone, over seeds, judged on the test clips.

python benchmarks/recipe.py --root OUT/clips.csv --responses RESPONSES [--stages train,distill] [--only
EMA,SWA] [--seeds 0,1,2]

OUT: a data set with TAU's lists. RESPONSES: a folder of measured impulse responses. At the demo's size (64
bands, width 32), with as many epochs as --epochs says, in one cosine. Everything goes into MLflow's store
(MLFLOW_TRACKING_URI): what has finished is not trained again, so the script can be stopped and started.
The table grows with each option.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from adaptf.data.clips import TEST
from adaptf.data.parquet import read_table, write_table
from adaptf.evaluation.bootstrap import paired_bootstrap
from adaptf.evaluation.scores import macro_accuracy
from adaptf.mlproject.distill import DISTILL
from adaptf.mlproject.finetune import FINETUNE
from adaptf.mlproject.prepare import PREPARE
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN
from adaptf.pipeline.command_line import parse
from adaptf.pipeline.config import upstream
from adaptf.pipeline.dataset import load_tested
from adaptf.pipeline.predictions import load_models, predict_by_device
from adaptf.pipeline.stage import Stage, execute, quiet_libraries
from adaptf.tracking import runs
from adaptf.tracking.runs import Result, StageRun

STAGES = {stage.name: stage for stage in (TRAIN, DISTILL, FINETUNE)}
PREDICTIONS, SECONDS = "predictions.parquet", "processor seconds"
KNOWN = ("a", "b", "c", "s1", "s2", "s3")
"""TAU's devices with training clips."""
TEACHERS = 3
"""Small ones with seeds of their own, as `main` trains without BEATs."""


@dataclass(frozen=True)
class Option:
    """A change of one stage's settings."""

    name: str
    stage: str
    changes: tuple[str, ...]


OPTIONS = (
    Option("plain score", "train", ("--trainer.score=plain",)),
    Option("EMA", "train", ("--optim.average.kind=ema",)),
    Option("SWA", "train", ("--optim.average.kind=swa",)),
    Option("warm restarts", "train", ("--optim.restart_epochs=2", "--optim.restart_factor=2")),
    Option("time roll", "train", ("--augment.time_roll_seconds=0.1",)),
    Option("SpecAugment", "train", ("--augment.spec_mask_share=0.2",)),
    Option("responses for all devices", "train", ("--augment.dir_devices=[]",)),
    Option("more responses for all devices", "train", ("--augment.dir_devices=[]", "--augment.dir_p=0.6")),
    Option("no responses", "train", ("--augment.dir_p=0",)),
    Option("no Freq-MixStyle", "train", ("--augment.mixstyle_p=0",)),
    Option("more Freq-MixStyle", "train", ("--augment.mixstyle_p=0.8",)),
    Option("no mixup", "train", ("--augment.mixup_alpha=0",)),
    Option("refit on all clips", "train", ("--refit=true",)),
    Option("T 1", "distill", ("--loss.temperature=1",)),
    Option("T 4", "distill", ("--loss.temperature=4",)),
    Option("KL over clips", "distill", ("--loss.reduction=clips",)),
    Option("KL over clips, weight 0.1", "distill", ("--loss.reduction=clips", "--loss.weight=0.1")),
    Option("weight 0.1", "distill", ("--loss.weight=0.1",)),
    Option("EMA, distilled", "distill", ("--optim.average.kind=ema",)),
    Option("SWA, distilled", "distill", ("--optim.average.kind=swa",)),
    Option("time roll, distilled", "distill", ("--augment.time_roll_seconds=0.1",)),
    Option("responses for all devices, distilled", "distill", ("--augment.dir_devices=[]",)),
    Option("mixup 0.3", "distill", ("--augment.mixup_alpha=0.3",)),
    Option("refit, distilled", "distill", ("--refit=true",)),
    Option("no teachers", "finetune", ("--teacher_runs=none",)),
    Option("own clips alone", "finetune", ("--borrowed=none",)),
    Option("refit, per device", "finetune", ("--refit=true",)),
)


@dataclass(frozen=True)
class TrialConfig:
    """One training, and what it says of the test clips."""

    prepare_run: str = upstream("prepare")
    """Run of `prepare` that holds the scenes."""
    stage: str = TRAIN.name
    """The stage that trains."""
    arguments: tuple[str, ...] = ()
    """Of its command line."""


def trial(config: TrialConfig, run: StageRun) -> Result:
    """The predictions of the test clips, and what the training took of the processor."""
    begin = time.process_time()
    trained = execute_stage(config.stage, config.arguments)
    seconds = time.process_time() - begin
    data = load_tested(run, config.prepare_run)
    rows = data.table[data.table["split"] == TEST]
    models = load_models(run, trained, data, "auto")
    predictions = predict_by_device(models, data, rows, config.stage)
    path = run.folder / PREDICTIONS
    write_table(path, predictions)
    return Result(
        metrics={SECONDS: seconds, "accuracy": macro_accuracy(predictions)},
        files={PREDICTIONS: path},
        parts=[trained],
    )


TRIAL = Stage("recipe_trial", run=trial, config=TrialConfig)


@dataclass(frozen=True)
class Trials:
    """One setting over the seeds."""

    predictions: list[pd.DataFrame]
    seconds: float
    """Of the processor, the median over seeds."""


class Bench:
    """The upstream runs of one data set, and trainings on them."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.seeds, self.epochs, self.responses = given.seeds, given.epochs, given.responses
        arguments = (f"--data.root={given.root}", *([f"--data.cache={given.cache}"] if given.cache else []))
        self.prepared = execute_stage(PREPARE.name, arguments)

    def base(self, stage: str, seed: int) -> Iterator[str]:
        """The settings that every training of the stage shares."""
        yield from ("--preset=demo", f"--prepare_run={self.prepared}", f"--seed={seed}")
        yield "--trainer.accelerator=auto"
        section = "small." if stage == TEACHER.name else ""
        yield f"--{section}augment.dir_folder={self.responses}"
        if stage != FINETUNE.name:
            yield f"--{section}optim.max_epochs={self.epochs}"
            yield f"--{section}optim.restart_epochs={self.epochs}"
        if stage in (DISTILL.name, FINETUNE.name):
            yield f"--teacher_runs={','.join(self.teachers())}"
        if stage == TRAIN.name:
            yield "--pretrain_run=none"
        if stage == DISTILL.name:
            yield f"--train_run={self.model_of(TRAIN.name, seed)}"
        if stage == FINETUNE.name:
            yield f"--distill_run={self.model_of(DISTILL.name, seed)}"

    def teachers(self) -> list[str]:
        """The runs of small teachers, which all seeds share."""
        return [
            execute_stage(TEACHER.name, ("--kind=small_cnn", *self.base(TEACHER.name, seed)))
            for seed in range(TEACHERS)
        ]

    def model_of(self, stage: str, seed: int) -> str:
        """The run of a stage without any option."""
        return execute_stage(stage, tuple(self.base(stage, seed)))

    def trials(self, stage: str, changes: Sequence[str] = ()) -> Trials:
        """Each seed's training, with these changes."""
        settings = [(*self.base(stage, seed), *changes) for seed in self.seeds]
        run_ids = [
            execute(TRIAL, TrialConfig(self.prepared, stage, arguments), reuse=True) for arguments in settings
        ]
        return Trials(
            [predictions_of(run_id) for run_id in run_ids],
            float(np.median([runs.scores(run_id)[SECONDS] for run_id in run_ids])),
        )


def predictions_of(run_id: str) -> pd.DataFrame:
    """Of a trial."""
    return read_table(Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=PREDICTIONS)))


def execute_stage(name: str, arguments: Sequence[str]) -> str:
    """The run of a stage with these words of its command line; a finished one is taken."""
    stage: Stage[Any] = {**STAGES, PREPARE.name: PREPARE, TEACHER.name: TEACHER}[name]
    return execute(stage, parse(stage.config, stage=name, arguments=arguments), reuse=True)


def row(option: Option, base: Trials, found: Trials) -> str:
    """Of the table, in points."""
    gain = paired_bootstrap(base.predictions, found.predictions)
    places = f"{100 * gain.low:.1f} to {100 * gain.high:.1f}"
    over_seeds = f"{100 * gain.runs_low:.1f} to {100 * gain.runs_high:.1f}"
    known = [100 * (score(found, known=side) - score(base, known=side)) for side in (True, False)]
    cells = (
        option.name,
        f"{100 * gain.mean:+.1f}",
        places,
        over_seeds,
        *(f"{one:+.1f}" for one in known),
        f"{found.seconds / base.seconds:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def score(trials: Trials, *, known: bool) -> float:
    """Mean over seeds of the macro average over the clips of devices that training heard,
    or of the others."""
    return float(
        np.mean([macro_accuracy(one[one["device"].isin(KNOWN) == known]) for one in trials.predictions])
    )


def main() -> None:
    """Prints a table per stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True)
    parser.add_argument("--responses", required=True)
    parser.add_argument("--cache", default="")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--stages", type=lambda text: text.split(","), default=list(STAGES))
    parser.add_argument("--only", type=lambda text: text.split(","), default=[])
    parser.add_argument(
        "--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2]
    )
    given = parser.parse_args()
    quiet_libraries()
    runs.use_default_store()
    bench = Bench(given)
    for stage in given.stages:
        base = bench.trials(stage)
        score_of_base = np.mean([macro_accuracy(one) for one in base.predictions])
        rows = [
            f"\n{stage}: {100 * score_of_base:.1f} without an option, {base.seconds:.0f} s of the processor",
            "| option | gain | over places | over seeds | known | unknown | cost |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for option in OPTIONS:
            if option.stage == stage and (not given.only or option.name in given.only):
                rows.append(row(option, base, bench.trials(stage, option.changes)))
                print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
