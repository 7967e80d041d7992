"""What one preset gains over another, stage by stage, judged on the test clips.

python benchmarks/presets.py --root OUT/clips.csv --responses RESPONSES [--presets report,best]

OUT: a data set with TAU's lists. RESPONSES: a folder of measured impulse responses. The presets as they are,
but at the demo's size (64 bands, width 32, batches of 32 at the demo's rates) and with a tenth of their
epochs (--shorter), from scratch, with the same three small teachers.

Everything goes into MLflow's store: what has finished is not trained again. Several at once share the work by
seeds: --seeds 0, --seeds 1, and then one with all of them for the table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from recipe import (
    KNOWN,
    TRIAL,
    Bench,
    TrialConfig,
    command_line,
    execute_stage,
    interval,
    of,
    predictions_of,
    unknown_devices,
)

from adaptf.evaluation.bootstrap import paired_bootstrap
from adaptf.evaluation.scores import macro_accuracy
from adaptf.mlproject.distill import DISTILL
from adaptf.mlproject.finetune import FINETUNE
from adaptf.mlproject.quantize import QUANTIZE
from adaptf.mlproject.train import TRAIN
from adaptf.pipeline.command_line import parse
from adaptf.pipeline.stage import Stage, execute, quiet_libraries
from adaptf.tracking.store import open_store

CHAIN: tuple[Stage[Any], ...] = (TRAIN, DISTILL, FINETUNE, QUANTIZE)
RATES = {TRAIN: 0.01, DISTILL: 0.005, FINETUNE: 0.0008}
"""Of the preset `demo`, whose batches are an eighth of the report's."""
FROM_BEFORE = {
    TRAIN: "pretrain_run",
    DISTILL: "train_run",
    FINETUNE: "distill_run",
    QUANTIZE: "finetune_run",
}
"""The field that names the run of the stage before."""
Predictions = list[pd.DataFrame]
"""One per seed."""


@dataclass(frozen=True)
class Chains:
    """The stages of some presets one after the other, on one data set."""

    bench: Bench
    shorter: int
    """The presets' epochs are divided by it."""

    def predictions(self, preset: str, seed: int) -> Iterator[pd.DataFrame]:
        """Of the test clips, by what each stage leaves."""
        before = ""
        for stage in CHAIN:
            arguments = tuple(self.arguments(stage, preset, seed, before))
            config = TrialConfig(self.bench.prepared, stage.name, arguments)
            yield predictions_of(execute(TRIAL, config, reuse=True))
            before = execute_stage(stage.name, arguments)

    def arguments(self, stage: Stage[Any], preset: str, seed: int, before: str) -> Iterator[str]:
        """Of the stage's command line; `before`: the run of the stage before."""
        yield from (f"--preset={preset}", f"--prepare_run={self.bench.prepared}", f"--seed={seed}")
        yield f"--{FROM_BEFORE[stage]}={before or 'none'}"
        if stage is QUANTIZE:
            yield "--refuse=false"  # what it loses is told here
            return
        yield from ("--trainer.accelerator=auto", "--trainer.workers=0", "--trainer.progress_bar=false")
        yield f"--augment.dir_folder={self.bench.responses}"
        yield from (f"--optim.lr={RATES[stage]}", "--optim.batch_size=32")
        whole = parse(stage.config, stage=stage.name, arguments=(f"--preset={preset}",))
        for field in ("max_epochs", "restart_epochs"):
            yield f"--optim.{field}={max(1, round(getattr(whole.optim, field) / self.shorter))}"
        if stage is FINETUNE:
            yield f"--unknown_epochs={round(whole.unknown_epochs / self.shorter)}"
        if stage is TRAIN:
            yield from ("--mel.bands=64", "--model.width=32")
        else:
            yield f"--teacher_runs={','.join(self.bench.teachers)}"


def rows(baseline: Predictions, candidate: Predictions) -> Iterator[str]:
    """All, known and unknown devices: both accuracies, and their difference with its 95 % intervals over
    places and over seeds, in points."""
    unknown = unknown_devices(baseline[0])
    for name, devices in (("all", [*KNOWN, *unknown]), ("known", KNOWN), ("unknown", unknown)):
        sides = [[of(one, devices) for one in side] for side in (baseline, candidate)]
        means = (sum(map(macro_accuracy, side)) / len(side) for side in sides)
        gain = paired_bootstrap(*sides)
        cells = (
            *(f"{100 * mean:.1f}" for mean in means),
            f"{100 * gain.mean:+.1f}",
            interval(gain.low, gain.high),
            interval(gain.runs_low, gain.runs_high),
        )
        yield f"{name} | {' | '.join(cells)}"


def main() -> None:
    """Prints the differences between the presets, and between the stages of each."""
    parser = command_line(__doc__)
    parser.add_argument("--shorter", type=int, default=10)
    parser.add_argument("--presets", type=lambda text: text.split(","), default=["report", "best"])
    parser.add_argument(
        "--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2]
    )
    given = parser.parse_args()
    quiet_libraries()
    open_store()
    chains = Chains(Bench(given), given.shorter)
    done = {
        preset: list(zip(*(chains.predictions(preset, seed) for seed in given.seeds), strict=True))
        for preset in given.presets
    }
    print("\n| difference | devices | before | after | difference | over places | over seeds |")
    print("|---|---|---:|---:|---:|---:|---:|")
    baseline = given.presets[0]
    for preset in given.presets[1:]:
        for stage, old, new in zip(CHAIN, done[baseline], done[preset], strict=True):
            for row in rows(list(old), list(new)):
                print(f"| {preset} over {baseline}: {stage.name} | {row} |")
    for preset, stages in done.items():
        for before, after, old, new in zip(CHAIN, CHAIN[1:], stages, stages[1:], strict=False):
            for row in rows(list(old), list(new)):
                print(f"| {preset}: {after.name} over {before.name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
