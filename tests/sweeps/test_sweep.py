"""A sweep in one process:
its trials, those that are ended early or fail, what it leaves, going on after an interruption."""

import os
import re
from collections.abc import Callable, Container
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pandas as pd
import pytest
import yaml
from mlflow.entities import Run
from optuna.trial import TrialState

from adaptf.errors import UserError
from adaptf.mlproject import sweep as sweep_module
from adaptf.mlproject.distill import DistillConfig
from adaptf.mlproject.finetune import FINETUNE, FinetuneConfig
from adaptf.mlproject.prepare import PREPARE, PrepareConfig
from adaptf.mlproject.sweep import SWEEP, SweepConfig, check
from adaptf.mlproject.teacher import TEACHER
from adaptf.mlproject.train import TRAIN, TrainConfig
from adaptf.pipeline.command_line import parse
from adaptf.pipeline.config import DataConfig
from adaptf.pipeline.stage import execute
from adaptf.pipeline.teachers import TeacherConfig
from adaptf.sweeps import results as sweep_results
from adaptf.sweeps.check import check_trial
from adaptf.sweeps.search import SearchConfig
from adaptf.sweeps.storage import open_storage
from adaptf.sweeps.tries import run_again
from adaptf.tracking import runs
from adaptf.tracking.outcome import Result
from adaptf.tracking.stage_run import StageRun
from adaptf.tracking.work_folder import work_folder
from adaptf.training.divergence import Diverged

SPACE = "optim.lr: {low: 0.001, high: 0.02, log: true}\naugment.dir_p: {low: 0.0, high: 1.0, step: 0.5}\n"


@pytest.fixture(scope="module")
def space(folder: Path) -> str:
    (folder / "space.yaml").write_text(SPACE)
    return str(folder / "space.yaml")


@pytest.fixture(scope="module")
def config(train_config: TrainConfig, space: str) -> SweepConfig:
    """Of `train`, random, four trials of two epochs."""
    search = SearchConfig(space=space, trials=4, pruner="none")
    return SweepConfig(
        stage="train",
        sweep=search,
        train=replace(train_config, augment=replace(train_config.augment, mixup_alpha=0)),
    )


def swept(config: SweepConfig, **search: Any) -> Run:
    """The run of a sweep."""
    run_id = execute(SWEEP, replace(config, sweep=replace(config.sweep, **search)))
    return mlflow.get_run(run_id)


def trial_runs(parent: Run) -> list[Run]:
    """In the order of their trials."""
    found: list[Run] = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'",
        output_format="list",
    )
    return sorted(found, key=lambda run: int(run.data.tags["adaptf.trial"]))


def table_of(run: Run) -> pd.DataFrame:
    path = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="trials.csv")
    return pd.read_csv(path, index_col="trial")


def values_of(run: Run) -> list[tuple[float, float]]:
    return [tuple(row) for row in table_of(run)[["optim.lr", "augment.dir_p"]].to_numpy()]


@pytest.fixture(scope="module")
def finished(config: SweepConfig) -> Run:
    return swept(config, study="whole")


def test_each_trial_is_a_nested_run_named_after_its_values(finished: Run) -> None:
    trials = trial_runs(finished)
    assert [run.info.status for run in trials] == ["FINISHED"] * 4
    assert [run.data.tags["adaptf.trial.state"] for run in trials] == ["complete"] * 4
    for run, (lr, p) in zip(trials, values_of(finished), strict=True):
        assert run.info.run_name == f"train lr={lr:.3g} DIR={p:.3g}"
        assert float(run.data.params["optim.lr"]) == pytest.approx(lr)
    assert list(table_of(finished)["run"]) == [run.info.run_id for run in trials]


def test_the_first_trial_has_the_settings_as_they_are(finished: Run, config: SweepConfig) -> None:
    assert values_of(finished)[0] == (config.train.optim.lr, config.train.augment.dir_p)


def test_the_parent_has_the_best_score_of_its_trials(finished: Run) -> None:
    scores = table_of(finished)["accuracy"]
    assert finished.data.metrics["best/accuracy"] == pytest.approx(scores.max())
    assert finished.data.metrics["trials/complete"] == 4
    assert finished.info.run_name == "sweep train whole"
    assert "runs:/" in finished.data.tags["mlflow.note.content"]
    pictures = {entry.path for entry in mlflow.MlflowClient().list_artifacts(finished.info.run_id, "figures")}
    assert {"figures/history.png", "figures/importances.png", "figures/slices.png"} <= pictures


def test_the_trials_are_a_table_that_mlflow_shows(finished: Run) -> None:
    shown = mlflow.load_table("trials.json", run_ids=[finished.info.run_id])
    assert list(shown["trial"]) == [0, 1, 2, 3]


def test_the_best_settings_go_on_as_a_preset(finished: Run, config: SweepConfig) -> None:
    best = table_of(finished)["accuracy"].idxmax()
    lr, p = values_of(finished)[best]
    preset = f"runs:/{finished.info.run_id}/best.yaml"
    parsed: TrainConfig = parse(TrainConfig, stage="train", arguments=["--preset", preset])
    train_config = config.train
    expected = replace(
        train_config,
        optim=replace(train_config.optim, lr=lr),
        augment=replace(train_config.augment, dir_p=p),
        prepare_run="latest",
        pretrain_run="latest",
    )
    assert parsed == expected
    swept_again: SweepConfig = parse(SweepConfig, stage="sweep", arguments=["--preset", preset])
    assert swept_again.train.optim.lr == lr


def test_latest_never_means_the_run_of_a_trial(finished: Run, train_config: TrainConfig) -> None:
    with pytest.raises(runs.UpstreamError, match="no run of stage 'train' has finished"):
        runs.latest("train", {})
    of_its_own = execute(TRAIN, replace(train_config, seed=5))
    assert runs.latest("train", {}) == of_its_own


def test_a_finished_study_is_not_run_again_but_can_be_prolonged(finished: Run, config: SweepConfig) -> None:
    again = swept(config, study="whole")
    assert again.data.metrics["best/accuracy"] == finished.data.metrics["best/accuracy"]
    assert len(trial_runs(finished)) == 4 and not trial_runs(again)
    longer = swept(config, study="whole", trials=5)
    assert len(trial_runs(finished)) == 5
    assert (
        longer.data.metrics["trials/complete"]
        == mlflow.get_run(finished.info.run_id).data.metrics["trials/complete"]
        == 5
    )


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[TrainConfig, StageRun], float]], None]:
    """Puts a function that returns a score in the place of `train`."""

    def put(score: Callable[[TrainConfig, StageRun], float]) -> None:
        def scored(train_config: TrainConfig, run: StageRun) -> Result:
            accuracy = score(train_config, run)
            of_devices = {"best/accuracy/a": accuracy, "best/accuracy/b": 1 - accuracy}
            return Result(metrics={"best/accuracy": accuracy, **of_devices})

        monkeypatch.setitem(sweep_module.STAGES, "train", replace(TRAIN, run=scored))

    monkeypatch.setattr(
        sweep_results, "sweep_figures", lambda *arguments, **more: ([], {})
    )  # they have tests of their own
    return put


@pytest.mark.slow
def test_one_worker_samples_the_same_trials_again_and_an_interrupted_one_goes_on_with_its_trial(
    config: SweepConfig, stage: Any
) -> None:
    def score(train_config: TrainConfig, run: StageRun) -> float:
        begun.append(train_config.optim.lr)
        if len(begun) in interrupted:
            raise KeyboardInterrupt
        return 1 - abs(train_config.optim.lr - 0.005)

    stage(score)
    search = {"trials": 12}
    begun: list[float] = []
    interrupted: tuple[int, ...] = ()
    whole = swept(config, study="tpe", **search)
    assert values_of(swept(config, study="tpe-again", **search)) == values_of(whole)
    assert len(set(values_of(whole))) > 4
    other = swept(config, study="tpe-other-seed", **search | {"seed": 1, "trials": 3})
    assert values_of(other)[1:] != values_of(whole)[1:3]

    interrupted = (3, 6)
    begun = []
    for _ in interrupted:
        with pytest.raises(KeyboardInterrupt):
            swept(config, study="tpe-interrupted", **search)
    resumed = swept(config, study="tpe-interrupted", **search)
    assert sorted(table_of(resumed)["tries"]) == [1] * 10 + [2, 2]
    assert len(set(begun)) == 12 and begun[2] == begun[3] and begun[5] == begun[6]
    assert begun[3:6] != [lr for lr, _ in values_of(whole)][2:5]  # whoever joins samples on its own


def test_a_trial_that_falls_behind_is_ended_early_and_never_continued(
    config: SweepConfig, stage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def score(train_config: TrainConfig, run: StageRun) -> float:
        assert run.watch
        begun.append(run.run_id)
        (run.folder / "checkpoint").touch()
        for epoch in range(1, 7):
            run.watch(epoch, 0.1 * epoch - 0.02 * len(begun))
        return 0.6 - 0.02 * len(begun)

    begun: list[str] = []
    stage(score)
    six_epochs = replace(config.train, optim=replace(config.train.optim, max_epochs=6))
    parent = swept(
        replace(config, train=six_epochs), study="halving", pruner="halving", min_epochs=2, trials=5
    )
    states = [(run.info.status, run.data.tags["adaptf.trial.state"]) for run in trial_runs(parent)]
    assert states == [("FINISHED", "complete")] + [("KILLED", "pruned")] * 4
    assert parent.data.metrics["trials/pruned"] == 4
    assert list(table_of(parent)["epochs"]) == [6, 2, 2, 2, 2]
    assert not list(Path(os.environ["ADAPTF_WORK"]).glob("train-*/"))
    said = capsys.readouterr().out
    assert re.search(
        r"trial 4, 5 of 5: pruned at epoch 2 with 0.100 \(.+\), best 0.580 \(trial 0\), pruned 4", said
    )

    values = mlflow.get_run(trial_runs(parent)[4].info.run_id).data.params
    again = replace(
        six_epochs,
        optim=replace(six_epochs.optim, lr=float(values["optim.lr"])),
        augment=replace(config.train.augment, dir_p=float(values["augment.dir_p"])),
    )
    before = len(begun)
    with pytest.raises(AssertionError):  # without a watch: it was begun, so nothing was taken from the trial
        execute(sweep_module.STAGES["train"], again, reuse=True)
    assert len(begun) == before


def test_a_trial_that_fails_is_failed_in_both_and_the_sweep_goes_on(config: SweepConfig, stage: Any) -> None:
    def score(train_config: TrainConfig, run: StageRun) -> float:
        begun.append(run.run_id)
        if len(begun) == 2:
            raise RuntimeError("out of memory")
        return 0.5

    begun: list[str] = []
    stage(score)
    parent = swept(config, study="one-fails")
    assert [run.info.status for run in trial_runs(parent)] == ["FINISHED", "FAILED", *["FINISHED"] * 3]
    assert list(table_of(parent)["state"]) == ["complete", "failed", "complete", "complete", "complete"]
    assert table_of(parent)["error"][1] == "RuntimeError: out of memory"


def test_trials_that_all_fail_stop_the_sweep_with_their_error(config: SweepConfig, stage: Any) -> None:
    def score(train_config: TrainConfig, run: StageRun) -> float:
        begun.append(run.run_id)
        raise RuntimeError("disk full")

    begun: list[str] = []
    stage(score)
    with pytest.raises(RuntimeError, match="disk full"):
        swept(config, study="all-fail")
    assert len(begun) == 3


def test_a_score_that_is_no_number_is_a_failure(config: SweepConfig, stage: Any) -> None:
    def score(train_config: TrainConfig, run: StageRun) -> float:
        begun.append(run.run_id)
        return float("nan") if len(begun) in nan else 0.5

    stage(score)
    begun: list[str] = []
    nan: Container[int] = (2,)
    parent = swept(config, study="one-nan")
    assert [run.info.status for run in trial_runs(parent)] == ["FINISHED", "FAILED", *["FINISHED"] * 3]
    assert [run.data.tags["adaptf.trial.state"] for run in trial_runs(parent)][1] == "failed"
    assert table_of(parent)["error"][1] == "ArithmeticError: best/accuracy is nan"
    nan = range(100)
    begun = []
    with pytest.raises(ArithmeticError, match="best/accuracy is nan"):
        swept(config, study="all-nan")
    assert len(begun) == 3


def test_a_trial_waits_for_a_process_that_does_the_same_work(
    config: SweepConfig, stage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def score(train_config: TrainConfig, run: StageRun) -> float:
        begun.append(run.run_id)
        if len(begun) == 2:
            with work_folder("finetune_device", "same"), work_folder("finetune_device", "same"):
                raise AssertionError
        return 0.5

    begun: list[str] = []
    stage(score)
    parent = swept(config, study="busy")
    assert begun[1] == begun[2]  # it went on in its run
    assert [run.info.status for run in trial_runs(parent)] == ["FINISHED"] * 4
    assert list(table_of(parent)["tries"]) == [1, 1, 1, 1]
    assert "trial 1 waits: another process is running this finetune_device" in capsys.readouterr().out


def test_settings_that_the_stage_refuses_stop_the_sweep_at_once(config: SweepConfig, stage: Any) -> None:
    def score(train_config: TrainConfig, run: StageRun) -> float:
        begun.append(run.run_id)
        raise UserError("augment: there is no device 's9'")

    begun: list[str] = []
    stage(score)
    with pytest.raises(UserError, match="no device 's9'"):
        swept(config, study="refused")
    assert len(begun) == 1


def test_values_with_which_a_training_diverges_end_their_trials_alone(
    config: SweepConfig, stage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def score(train_config: TrainConfig, run: StageRun) -> float:
        begun.append(run.run_id)
        if len(begun) < 4:
            raise Diverged("the training has diverged in epoch 1")
        return 0.5

    begun: list[str] = []
    stage(score)
    run = swept(config, study="diverged")
    assert list(table_of(run)["state"]) == ["pruned"] * 3 + ["complete"]
    assert "pruned, the training has diverged in epoch 1" in capsys.readouterr().out


def test_a_worker_that_joins_puts_its_trials_under_the_first_ones_run(
    config: SweepConfig, stage: Any
) -> None:
    def score(train_config: TrainConfig, run: StageRun) -> float:
        begun.append(run.run_id)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return 0.5

    begun: list[str] = []
    stage(score)
    with pytest.raises(KeyboardInterrupt):
        swept(config, study="joined")
    second = swept(config, study="joined")
    (first,) = {mlflow.get_run(run_id).data.tags["mlflow.parentRunId"] for run_id in begun}
    assert first != second.info.run_id
    parent = mlflow.get_run(first)
    assert parent.info.status == "FINISHED"  # its own process was interrupted
    assert parent.data.metrics["trials/complete"] == second.data.metrics["trials/complete"] == 4
    assert begun[1] == begun[2]  # the interrupted trial went on in its run
    assert f"run {first}" in second.data.tags["mlflow.note.content"]


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"optim": 3}, "train.optim.max_epochs: 2 there, 3 here"),
        (
            {"space": "optim.lr: {low: 0.001, high: 0.03, log: true}\n"},
            "space, optim.lr: .*0.02.* there, .*0.03.* here",
        ),
        ({"prepare_run": True}, "prepare_run: .* there, .* here"),
    ],
    ids=["settings", "space", "upstream"],
)
def test_a_study_with_other_settings_is_refused(
    changes: dict[str, Any], told: str, finished: Run, config: SweepConfig, folder: Path, data: DataConfig
) -> None:
    search: dict[str, Any] = {"study": "whole"}
    if "optim" in changes:
        config = replace(
            config,
            train=replace(config.train, optim=replace(config.train.optim, max_epochs=changes["optim"])),
        )
    if "space" in changes:
        (folder / "other.yaml").write_text(changes["space"])
        search["space"] = str(folder / "other.yaml")
    if "prepare_run" in changes:
        other = execute(PREPARE, PrepareConfig(replace(data, validation_share=0.5)))
        config = replace(config, prepare_run=other)
    with pytest.raises(UserError, match=rf"(?s)study 'whole' has other settings.*{told}"):
        swept(config, **search)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"trials": 0}, "sweep.trials should be 1 or more, got 0"),
        ({"study": "a/b"}, "sweep.study should be a name of letters"),
        ({"storage": "somewhere"}, "neither 'default' nor the URL of a database"),
        (
            {"storage": "oracle+nothing://host/base"},
            r"oracle\+nothing://host/base can't be used: Can't load plugin",
        ),
        (
            {"storage": "postgresql+psycopg2://me:secret@127.0.0.1:1/base"},
            r"me@127.0.0.1:1/base can't be used: .*refused",
        ),
        ({"space": "nothing.yaml"}, "neither one of default, distill, finetune, train nor a file"),
    ],
    ids=lambda value: str(next(iter(value.items()))) if isinstance(value, dict) else "",
)
def test_what_cannot_be_searched_is_said_before_any_run(
    changes: dict[str, Any], told: str, config: SweepConfig
) -> None:
    before = len(mlflow.search_runs(search_all_experiments=True))
    with pytest.raises(UserError, match=told):
        swept(config, **changes)
    assert len(mlflow.search_runs(search_all_experiments=True)) == before


@pytest.mark.parametrize(
    "text, told",
    [
        (
            "augment.dir_p: {low: 0.0, high: 1.5}",
            "augment.dir_p is 1.5: it should be from 0 to 1",
        ),
        (
            "augment.dir_p_of: {nosuch: {low: 0, high: 1}}",
            "names the device 'nosuch' in 'nosuch', the training clips are of a, b, c",
        ),
        ("augment.dir_p_of: {a: {low: 0, high: 1}, 'a,c': {low: 0, high: 1}}", "names the device 'a' twice"),
        (
            "augment.dir_p_of: {'a,b': {low: 0, high: 1}}",
            r"augment.dir_p_of.a,b: .* of the settings names b too, in 'b'",
        ),
        ("augment.spec_mask_share: {choices: [0.1, 7.0]}", r"augment\.spec_mask_share is 7"),
    ],
    ids=lambda value: value[:25],
)
def test_values_that_the_stage_would_refuse_are_said_before_any_run(
    text: str, told: str, config: SweepConfig, folder: Path
) -> None:
    (folder / "refused.yaml").write_text(text)
    settings = replace(
        config.train,
        augment=replace(config.train.augment, dir_p_of={"b": 0.5}),
    )
    before = len(mlflow.search_runs(search_all_experiments=True))
    with pytest.raises(UserError, match=rf"(?s)refused.yaml gives train:.*{told}"):
        swept(replace(config, train=settings), study="refused-values", space=str(folder / "refused.yaml"))
    assert len(mlflow.search_runs(search_all_experiments=True)) == before


def test_a_shipped_space_of_other_devices_is_refused_with_those_that_there_are(config: SweepConfig) -> None:
    with pytest.raises(
        UserError,
        match=r"(?s)made for TAU's devices.* a file of your own.* the training clips are of a, b, c",
    ):
        swept(config, study="shipped", space="default")
    unknown = FinetuneConfig(prepare_run=config.train.prepare_run, unknown_dir_p=1.5)
    with pytest.raises(UserError, match=r"unknown_dir_p is 1.5"):
        check_trial(FINETUNE, unknown, ("a", "b", "c"))


def test_a_run_to_take_from_that_there_is_not_is_said_before_any_run(config: SweepConfig) -> None:
    with pytest.raises(UserError, match="there is no run 'nosuch'"):
        check(replace(config, prepare_run="nosuch"))


def test_a_look_that_no_trial_would_come_to_is_refused(config: SweepConfig) -> None:
    with pytest.raises(
        UserError, match=r"sweep.min_epochs should be less than the 2 epochs of a training, got 2"
    ):
        check(replace(config, sweep=replace(config.sweep, study="late", pruner="halving", min_epochs=2)))


def test_a_study_of_a_version_that_kept_it_in_a_journal_is_said_with_its_file(
    config: SweepConfig, folder: Path
) -> None:
    journal = folder / "sweeps" / "old.journal"
    journal.parent.mkdir()
    journal.touch()
    with pytest.raises(
        UserError, match=rf"study 'old' .*{journal}.*another sweep.study, or remove that file"
    ):
        swept(config, study="old")


def test_a_file_that_holds_no_studies_is_named(config: SweepConfig, folder: Path) -> None:
    (folder / "torn.db").write_bytes(b"torn" * 1000)
    with pytest.raises(UserError, match=rf"{folder / 'torn.db'} can't be used: file is not a database"):
        swept(config, storage=f"sqlite:///{folder / 'torn.db'}")


def test_a_trial_that_others_have_taken_is_left_to_them(
    config: SweepConfig, stage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def score(train_config: TrainConfig, run: StageRun) -> float:
        begun.append(run.run_id)
        if len(begun) == 2:
            study = optuna.load_study(storage=open_storage(config.sweep), study_name="taken")
            (running,) = study.get_trials(states=[TrialState.RUNNING])
            study.tell(running.number, state=TrialState.FAIL)
            run_again(study, running)
        return 0.5

    begun: list[str] = []
    stage(score)
    parent = swept(config, study="taken")
    assert "trial 1: no sign of life came for too long, another worker has it now" in capsys.readouterr().out
    assert list(table_of(parent)["tries"]) == [1, 2, 1, 1]
    assert len(begun) == 4  # what the first try had finished was taken from there


def test_the_studies_need_another_database_than_mlflow(
    config: SweepConfig, environment: dict[str, str]
) -> None:
    with pytest.raises(UserError, match="is MLflow's own database"):
        swept(config, storage=environment["MLFLOW_TRACKING_URI"])


def test_several_devices_or_seeds_are_refused(config: SweepConfig) -> None:
    with pytest.raises(UserError, match="start a worker for each device"):
        check(
            replace(config, train=replace(config.train, trainer=replace(config.train.trainer, devices="2")))
        )
    with pytest.raises(UserError, match="seeds and a sweep don't go together"):
        check(replace(config, train=replace(config.train, seeds=(0, 1))))


@pytest.mark.slow
def test_a_distillation_is_swept_with_the_shipped_space(
    distill_config: DistillConfig, train_config: TrainConfig, teacher_config: TeacherConfig
) -> None:
    trained, taught = execute(TRAIN, train_config), execute(TEACHER, teacher_config)
    settings = replace(distill_config, augment=replace(distill_config.augment, mixstyle_p=0.0))
    config = SweepConfig(
        train_run=trained, teacher_runs=taught, distill=settings, sweep=SearchConfig(trials=3)
    )
    parent = swept(config)
    assert parent.info.run_name == "sweep distill distill"
    assert parent.data.tags["adaptf.upstream.train_run"] == trained
    assert {run.info.run_name.split("=")[0] for run in trial_runs(parent)} == {"distill T"}
    content = yaml.safe_load(mlflow.artifacts.load_text(f"runs:/{parent.info.run_id}/best.yaml"))
    assert list(content) == ["trainer", "distill"] and "train_run" not in content["distill"]
    assert content["distill"]["augment"]["mixstyle_p"] == 0.0


@pytest.mark.slow
def test_fine_tuning_is_swept_per_device_group(
    finished: Run, config: SweepConfig, train_config: TrainConfig, folder: Path
) -> None:
    path = folder / "groups.yaml"
    path.write_text("augment.dir_p_of:\n  a: {low: 0.0, high: 1.0}\n  b,c: {low: 0.0, high: 1.0}\n")
    trained = execute(TRAIN, train_config)
    start = mlflow.artifacts.download_artifacts(
        run_id=trained, artifact_path="checkpoints/best.ckpt", dst_path=str(folder)
    )
    settings = FinetuneConfig(
        prepare_run=train_config.prepare_run,
        distill_run=start,
        teacher_runs="none",
        devices=("a",),
        min_clips=1,
        min_validation_clips=1,
        augment=replace(train_config.augment, dir_p=0.0),
        optim=replace(train_config.optim, max_epochs=1),
        trainer=train_config.trainer,
    )
    config = SweepConfig(stage="finetune", finetune=settings, sweep=SearchConfig(space=str(path), trials=2))
    parent = swept(config)
    table = table_of(parent)
    assert table["augment.dir_p_of.a"][0] == table["augment.dir_p_of.b,c"][0] == 0.0
    names = [run.info.run_name for run in trial_runs(parent)]
    assert names[0] == "finetune DIR a=0 DIR b,c=0"
    preset = f"runs:/{parent.info.run_id}/best.yaml"
    best = table["accuracy"].idxmax()
    parsed = parse(FinetuneConfig, stage="finetune", arguments=["--preset", preset])
    assert parsed.augment.dir_p_of == {
        "a": table["augment.dir_p_of.a"][best],
        "b,c": table["augment.dir_p_of.b,c"][best],
    }
