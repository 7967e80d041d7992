"""What each option of the recipe gains: trainings in which half of them have it,
judged on the test clips.

python benchmarks/recipe.py --root OUT/clips.csv --responses RESPONSES [--stages train,distill]

OUT: a data set with TAU's lists. RESPONSES: a folder of measured impulse responses. At the demo's size (64
bands, width 32), with as many epochs as --epochs says, in one cosine.

24 trainings of a stage tell of 11 options at once: each is on in 12 of them and off in 12, and any other is
on in half of either (Plackett and Burman, 1946, The design of optimum multifactorial experiments; with its
mirror image, so that two options that help each other show as neither's gain: Box and Wilson, 1951). One
option at a time would take 12 times as many for intervals as narrow.

Everything goes into MLflow's store (MLFLOW_TRACKING_URI): what has finished is not trained again, so the
script can be stopped and started. Several at once, on one store, share the trainings: --share 0/2, --share
1/2, and then one without it for the table.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from adaptf.data.clips import TEST
from adaptf.data.parquet import read_table, write_table
from adaptf.evaluation.bootstrap import paired_bootstrap
from adaptf.evaluation.scores import macro_accuracy
from adaptf.mlproject.distill import DISTILL
from adaptf.mlproject.finetune import FINETUNE
from adaptf.mlproject.prepare import PREPARE
from adaptf.mlproject.quantize import QUANTIZE
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN
from adaptf.pipeline.command_line import parse
from adaptf.pipeline.config import upstream
from adaptf.pipeline.dataset import load_tested
from adaptf.pipeline.predictions import load_models, predict_by_device
from adaptf.pipeline.stage import Stage, execute, quiet_libraries
from adaptf.tracking import runs
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.store import open_store

STAGES: dict[str, Stage[Any]] = {
    stage.name: stage for stage in (PREPARE, TEACHER, TRAIN, DISTILL, FINETUNE, QUANTIZE)
}
MEASURED = (TRAIN.name, DISTILL.name, FINETUNE.name)
"""Stages that have options below."""
PREDICTIONS, SECONDS = "predictions.parquet", "processor seconds"
KNOWN = ("a", "b", "c", "s1", "s2", "s3")
"""TAU's devices with training clips."""
TEACHERS = 3
"""Small ones with seeds of their own, as `main` trains without BEATs."""
SEEDS = 3
"""The trainings take turns with them, and with what they start from."""


@dataclass(frozen=True)
class Option:
    """A change of one stage's settings."""

    name: str
    stage: str
    changes: tuple[str, ...]


OPTIONS = (
    Option("refit on all clips", "train", ("--refit=true",)),
    Option("responses for all devices", "train", ("--augment.dir_devices=[]",)),
    Option("responses twice as often", "train", ("--augment.dir_p=0.6",)),
    Option("SpecAugment", "train", ("--augment.spec_mask_share=0.2",)),
    Option("Freq-MixStyle twice as often", "train", ("--augment.mixstyle_p=0.8",)),
    Option("no mixup", "train", ("--augment.mixup_alpha=0",)),
    Option("no dropout", "train", ("--model.dropout=0",)),
    Option("restarts", "train", ("--optim.restart_epochs=1", "--optim.restart_factor=2")),
    Option("responses for all devices", "distill", ("--augment.dir_devices=[]",)),
    Option("responses twice as often", "distill", ("--augment.dir_p=0.6",)),
    Option("Freq-MixStyle twice as often", "distill", ("--augment.mixstyle_p=0.8",)),
    Option("T 4", "distill", ("--loss.temperature=4",)),
    Option("weight 0.05", "distill", ("--loss.weight=0.05",)),
    Option("mixup 0.3", "distill", ("--augment.mixup_alpha=0.3",)),
    Option("twice the rate", "distill", ("--optim.lr=0.01",)),
    Option("divergence over clips alone", "distill", ("--loss.reduction=clips",)),
    Option("refit on all clips", "distill", ("--refit=true",)),
    Option("no teachers", "finetune", ("--teacher_runs=none",)),
    Option("own clips alone", "finetune", ("--borrowed=none",)),
    Option("refit on all clips", "finetune", ("--refit=true",)),
    Option("three times the epochs", "finetune", ("--optim.max_epochs=6", "--optim.restart_epochs=6")),
    Option("no mixup", "finetune", ("--augment.mixup_alpha=0",)),
)


def design(options: int) -> NDArray[np.bool_]:
    """(24, options): which options each training has. Raises ValueError for more than 11."""
    if options > 11:
        raise ValueError(f"24 trainings tell of 11 options at most, got {options}")
    generator = np.array([1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0], dtype=bool)
    half = np.stack([*(np.roll(generator, turn) for turn in range(11)), np.zeros(11, dtype=bool)])
    return np.concatenate([half, ~half])[:, :options]


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
    """The trainings of a stage."""

    on: NDArray[np.bool_]
    """(trainings, options)"""
    predictions: list[pd.DataFrame]
    seconds: NDArray[np.float64]
    """Of the processor."""

    def accuracies(self, devices: Sequence[str]) -> NDArray[np.float64]:
        """(trainings,) macro averages over the clips of these devices."""
        return np.array([macro_accuracy(of(one, devices)) for one in self.predictions])


class Bench:
    """The upstream runs of one data set, and trainings on them."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.epochs, self.responses = given.epochs, given.responses
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
            yield f"--teacher_runs={','.join(self.teachers)}"
        if stage == TRAIN.name:
            yield "--pretrain_run=none"
        if stage == DISTILL.name:
            yield f"--train_run={self.model_of(TRAIN.name, seed)}"
        if stage == FINETUNE.name:
            yield f"--distill_run={self.model_of(DISTILL.name, seed)}"

    @cached_property
    def teachers(self) -> list[str]:
        """The runs of small teachers, which all trainings share."""
        return [
            execute_stage(TEACHER.name, ("--kind=small_cnn", *self.base(TEACHER.name, seed)))
            for seed in range(TEACHERS)
        ]

    def model_of(self, stage: str, seed: int) -> str:
        """The run of a stage without any option."""
        return execute_stage(stage, tuple(self.base(stage, seed)))

    def trials(self, stage: str, options: Sequence[Option], share: slice) -> Trials:
        """These of the design's trainings."""
        on = design(len(options))
        numbers = range(len(on))[share]
        run_ids = [self.trial(stage, number, options, on[number]) for number in numbers]
        return Trials(
            on[share],
            [predictions_of(run_id) for run_id in run_ids],
            np.array([runs.scores(run_id)[SECONDS] for run_id in run_ids]),
        )

    def trial(self, stage: str, number: int, options: Sequence[Option], on: NDArray[np.bool_]) -> str:
        """The run of one."""
        changes = (words for option, has in zip(options, on, strict=True) if has for words in option.changes)
        arguments = (*self.base(stage, number % SEEDS), *changes)
        return execute(TRIAL, TrialConfig(self.prepared, stage, arguments), reuse=True)


def predictions_of(run_id: str) -> pd.DataFrame:
    """Of a trial."""
    return read_table(Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=PREDICTIONS)))


def of(predictions: pd.DataFrame, devices: Sequence[str]) -> pd.DataFrame:
    """The rows of these devices."""
    return predictions[predictions["device"].isin(devices)]


def unknown_devices(predictions: pd.DataFrame) -> list[str]:
    """Those without training clips."""
    return sorted(set(predictions["device"]) - set(KNOWN))


def interval(low: float, high: float) -> str:
    """Shares as points, in a table's cell."""
    return f"{100 * low:.1f} to {100 * high:.1f}"


def execute_stage(name: str, arguments: Sequence[str]) -> str:
    """The run of a stage with these words of its command line; a finished one is taken."""
    stage = STAGES[name]
    return execute(stage, parse(stage.config, stage=name, arguments=arguments), reuse=True)


def half_width(on: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Of the 95 % interval over trainings of each option's gain: by what the trainings vary when all gains
    are taken off."""
    terms = np.column_stack([np.ones(len(on)), on])
    left = scores - terms @ np.linalg.lstsq(terms, scores, rcond=None)[0]
    free = len(on) - terms.shape[1]
    return float(stats.t.ppf(0.975, free) * np.sqrt((left**2).sum() / free * 4 / len(on)))


def rows(options: Sequence[Option], trials: Trials) -> Iterator[str]:
    """Of the table, in points."""
    unknown = unknown_devices(trials.predictions[0])
    everything = trials.accuracies([*KNOWN, *unknown])
    wide = half_width(trials.on, everything)
    for number, option in enumerate(options):
        has = trials.on[:, number]
        gain = paired_bootstrap(
            *(
                [one for one, there in zip(trials.predictions, has == side, strict=True) if there]
                for side in (False, True)
            )
        )
        sides = [
            scores[has].mean() - scores[~has].mean() for scores in map(trials.accuracies, (KNOWN, unknown))
        ]
        cells = (
            option.name,
            f"{100 * gain.mean:+.1f}",
            interval(gain.low, gain.high),
            interval(gain.mean - wide, gain.mean + wide),
            *(f"{100 * side:+.1f}" for side in sides),
            f"{trials.seconds[has].mean() / trials.seconds[~has].mean():.2f}",
        )
        yield f"| {' | '.join(cells)} |"


def command_line(description: str | None) -> argparse.ArgumentParser:
    """With what a `Bench` is given."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True)
    parser.add_argument("--responses", required=True)
    parser.add_argument("--cache", default="")
    parser.add_argument("--epochs", type=int, default=20, help="of the bench's own trainings, as of teachers")
    return parser


def main() -> None:
    """Prints a table per stage."""
    parser = command_line(__doc__)
    parser.add_argument("--stages", type=lambda text: text.split(","), default=MEASURED)
    parser.add_argument("--share", type=lambda text: [int(part) for part in text.split("/")])
    given = parser.parse_args()
    quiet_libraries()
    open_store()
    bench = Bench(given)
    for stage in given.stages:
        options = [option for option in OPTIONS if option.stage == stage]
        if given.share:
            bench.trials(stage, options, slice(given.share[0], None, given.share[1]))
            continue
        trials = bench.trials(stage, options, slice(None))
        mean, seconds = np.mean([macro_accuracy(one) for one in trials.predictions]), trials.seconds.mean()
        print(f"\n{stage}: {100 * mean:.1f} over all trainings, {seconds:.0f} s of the processor each\n")
        print("| option | gain | over places | over trainings | known | unknown | cost |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        print("\n".join(rows(options, trials)), flush=True)


if __name__ == "__main__":
    main()
